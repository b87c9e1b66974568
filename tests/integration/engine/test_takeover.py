"""Many regions at once: one seal and one pass per lane, and a slow one holds no other back."""

import asyncio
from pathlib import Path

import msgspec
import pyarrow as pa

from datanode_agent.engine.engine import Engine, EngineConfig
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.ids import Lane, region_id
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, TABLE, V1, Lease, Node, order, region_write, simulate, table

COUNT = 60
REGIONS = [region_id(TABLE, n) for n in range(COUNT)]


async def loaded(bucket: Bucket) -> Node:
    """A node with many regions and rows in all of them, half of them flushed once."""
    a = await Node(bucket, "a", 1).start()
    a.tell(*(order(nodes_pb2.OPEN, 10, r) for r in REGIONS))
    await a.until(lambda: a.engine.serving() == COUNT)
    for n in range(4):
        writes = [region_write(10, [(f"h{n}", n, 1.0)], r) for r in REGIONS]
        assert all(o.outcome == pb.DONE for o in await a.engine.write(writes, 1_000))
        if n == 1:
            await a.engine.flush(REGIONS[: COUNT // 2])
    return a


def test_one_seal_and_one_pass_for_all_regions_of_a_lane() -> None:
    """Sixty regions of one dead lane: its objects are read once for all, and covered rows are skipped."""

    async def main(bucket: Bucket) -> None:
        a = await loaded(bucket)
        await a.kill()
        data = [k for k in bucket.objects if k.startswith(f"lanes/{a.lane}/0") and not k.endswith(f"{0:020d}")]
        gets: list[str] = []

        async def note(operation: str, key: str, when: str) -> None:
            if operation == "get" and when == "before" and key in data:
                gets.append(key)

        b = await Node(bucket, "b", 2, gate=note).start()
        b.tell(*(order(nodes_pb2.OPEN, 20, r, over=[a.lane]) for r in REGIONS))
        await b.until(lambda: b.engine.serving() == COUNT)
        read = [key for key in set(gets) if gets.count(key) > 2]
        assert not read, "the sealer looks at the last objects, one pass reads all: never more"
        entries = [r.serving.replayed_entries for r in b.reports if r.HasField("serving")]
        assert sorted(entries) == [2] * (COUNT // 2) + [4] * (COUNT // 2)
        assert len(await b.rows(20, REGIONS[0])) == len(await b.rows(20, REGIONS[-1])) == 4
        await b.kill()

    simulate(main)


def test_a_slow_region_holds_no_other_back() -> None:
    """One region's manifest hangs: all others of its lane serve, and it follows when the store answers."""

    async def main(bucket: Bucket) -> None:
        a = await loaded(bucket)
        await a.kill()
        answer = asyncio.Event()

        async def hang(operation: str, key: str, when: str) -> None:
            if operation == "list" and key == f"regions/{TABLE}/{7:06d}/manifest/":
                await answer.wait()

        b = await Node(bucket, "b", 2, gate=hang).start()
        b.tell(*(order(nodes_pb2.OPEN, 20, r, over=[a.lane]) for r in REGIONS))
        await b.until(lambda: b.engine.serving() == COUNT - 1, ms=1_000)
        assert b.state(REGIONS[7]) == "opening"
        answer.set()
        await b.until(lambda: b.engine.serving() == COUNT)
        assert len(await b.rows(20, REGIONS[7])) == 4
        await b.kill()

    simulate(main)


def test_a_takeover_is_flushed_and_lets_the_old_lane_go() -> None:
    """After a takeover the replayed rows are flushed by themselves; all of the dead lane is reported as done with."""

    async def main(bucket: Bucket) -> None:
        a = await loaded(bucket)
        await a.kill()
        b = await Node(bucket, "b", 2, msgspec.structs.replace(QUIET, tick_ms=50, settle_ms=500)).start()
        b.tell(*(order(nodes_pb2.OPEN, 20, r, over=[a.lane]) for r in REGIONS))
        await b.until(lambda: b.engine.serving() == COUNT)
        await b.until(lambda: sum(r.HasField("covered") for r in b.reports) == COUNT)
        end = await b.logs.seal(a.lane)
        for report in (r.covered for r in b.reports if r.HasField("covered")):
            [own] = [s for s in report.stays if not s.done]
            [dead] = [s for s in report.stays if s.done]
            assert (own.lane.incarnation, dead.lane.incarnation, dead.covered) == (b.token, a.token, end)
        assert b.engine.unflushed_bytes() == 0
        await b.kill()

    simulate(main)


def test_a_scan_ends_with_the_lease() -> None:
    """The lease is checked before every piece: a scan in the middle is refused, not finished."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        for n in range(4):
            await a.put(10, [("h", n, 1.0)])
            await a.engine.flush([])
        request = pb.ScanRequest(region_id=REGIONS[0], epoch=10)
        replies = []
        async for reply in a.engine.scan(request, 1_000):
            replies.append(reply)
            a.lease.on = len(replies) < 3
        assert replies[-1].refused.outcome == pb.NO_LEASE and len(replies) == 4
        await a.kill()

    simulate(main)


def test_p4_on_a_real_directory(tmp_path: Path) -> None:
    """P4: a planned move on real files and threads; how long writes were refused is printed, never asserted."""

    async def main() -> None:
        clock, workers = SystemClock(), ThreadWorkers("test", 4)
        store = DirectoryStore(tmp_path, workers)
        reports: dict[str, list[nodes_pb2.RegionReport]] = {"a": [], "b": []}
        nodes = {}
        for token, name in enumerate(("a", "b"), 1):
            nodes[name] = Engine(
                node_id=name, store=store, logs=ObjectsLog(store, clock, workers), clock=clock, workers=workers,
                config=EngineConfig(), lease=Lease(), report=reports[name].append,
            )  # fmt: skip
            await nodes[name].start(token, 1)
            nodes[name].admit([0])
        a, b = nodes["a"], nodes["b"]
        region, refused_ms = REGIONS[0], []
        lane = Lane("a", 1, 0)

        async def seen(name: str, what: str) -> nodes_pb2.RegionReport:
            while not any(r.HasField(what) for r in reports[name]):
                await clock.sleep(0.2)
            return next(r for r in reversed(reports[name]) if r.HasField(what))

        def reply(revision: int, told: nodes_pb2.Order) -> nodes_pb2.OrdersReply:
            return nodes_pb2.OrdersReply(revision=revision, orders=[told], tables=[table(V1)])

        a.apply(reply(1, order(nodes_pb2.OPEN, 10, region)))
        for n in range(20):
            [outcome] = await a.write([region_write(10, [("h", n, 1.0)], region)], 5_000)
            assert outcome.outcome == pb.DONE
        b.apply(reply(1, order(nodes_pb2.PREPARE, 10, region, attempt=11, from_lane=lane)))
        await seen("b", "prepared")
        began = clock.now_ms()
        a.apply(reply(2, order(nodes_pb2.STOP, 10, region, attempt=11)))
        stopped = (await seen("a", "stopped")).stopped
        b.apply(reply(2, order(nodes_pb2.OPEN, 12, region, ends=[(lane, stopped.stay_epoch, stopped.position)])))
        [outcome] = await b.write([region_write(12, [("h", 99, 1.0)], region)], 5_000)
        refused_ms.append(clock.now_ms() - began)
        assert outcome.outcome == pb.DONE
        pieces = [r.ipc async for r in b.scan(pb.ScanRequest(region_id=region, epoch=12, strong=True), 5_000)]
        assert pa.ipc.open_stream(b"".join(pieces)).read_all().num_rows == 21
        print(f"P4: from STOP to the first write acknowledged by the new owner: {refused_ms[0]:.1f} ms")
        for engine in nodes.values():
            await engine.stop(flush=True)
        workers.close()

    asyncio.run(main())
