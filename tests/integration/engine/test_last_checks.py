"""The last check before something cannot be taken back: an acknowledgement, a strong read, a drop, a deletion."""

import asyncio

import msgspec

from groundwork.core.manifest import manifest_folder, version_of
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, R, order, simulate


def test_a_lease_that_ends_during_the_append_acknowledges_nothing() -> None:
    """§8: the append is kept, and the answer says that its outcome is not known; renewed, the row is there."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        a.faults.latency_ms = (20.0, 20.0)
        writing = asyncio.create_task(a.write(10, [("h1", 1, 1.0)]))
        await asyncio.sleep(0.005)
        a.lease.on = False
        assert (await writing).outcome == pb.UNKNOWN_OUTCOME
        a.lease.on = True
        assert await a.rows(10) == [("h1", 1, 1.0)]
        await a.kill()

    simulate(main)


async def _zombie_and_heir(bucket: Bucket) -> tuple[Node, Node]:
    a = await Node(bucket, "a", 1).start()
    await a.open(10)
    await a.put(10, [("h1", 1, 1.0)])
    return a, await Node(bucket, "b", 2).start()


def test_a_strong_read_of_a_former_owner_is_refused_whatever_its_clock_says() -> None:
    """HOLES 13: the old owner's lease runs on by a wrong clock; a strong read meets the seal and returns no row."""

    async def main(bucket: Bucket) -> None:
        a, b = await _zombie_and_heir(bucket)
        assert await a.rows(10, strong=True) == [("h1", 1, 1.0)]
        await b.open(11, over=[a.lane])
        await b.put(11, [("h1", 1, 2.0)])
        assert a.lease.valid()
        refused = await a.scan(10, strong=True)
        assert isinstance(refused, pb.RegionOutcome), "a stale row left"
        assert refused.outcome == pb.NOT_OWNER
        assert await b.rows(11, strong=True) == [("h1", 1, 2.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_hole20_p2_a_zombie_acknowledges_nothing_into_a_dropped_region() -> None:
    """HOLES 20: whoever drops a lost owner's region seals its lane first, so the zombie's next append fails."""

    async def main(bucket: Bucket) -> None:
        a, b = await _zombie_and_heir(bucket)
        b.tell(order(nodes_pb2.DROP, 11, over=[a.lane]))
        await b.until(lambda: any(r.HasField("closed") for r in b.reports))
        assert a.lease.valid()
        assert (await a.write(10, [("h1", 2, 2.0)])).outcome != pb.DONE
        await a.kill()
        await b.kill()

    simulate(main)


def test_hole9_manifests_go_oldest_first_and_never_the_newest_two() -> None:
    """HOLES 9: at each single delete every younger version is still there; the newest two stay whatever is asked."""

    async def main(bucket: Bucket) -> None:
        folder, seen = manifest_folder(R), list[tuple[int, list[int]]]()

        async def gate(operation: str, key: str, moment: str) -> None:
            if operation == "delete" and moment == "after":
                left = sorted(version_of(k) for k in bucket.objects if k.startswith(folder))
                seen.append((len(seen), left))

        a = await Node(bucket, "a", 1, msgspec.structs.replace(QUIET, manifests_kept=1), gate=gate).start()
        await a.open(10)
        for n in range(6):
            await a.put(10, [("h1", n, 1.0)])
            await a.engine.flush([])
        newest = max(version_of(k) for k in bucket.objects if k.startswith(folder))
        await a.engine._orders.manifests.clean(R, newest)
        assert seen, "nothing was deleted"
        for _, left in seen:
            assert left == list(range(left[0], newest + 1)), "a gap: a younger version went before an older one"
        assert seen[-1][1] == [newest - 1, newest]
        await a.kill()

    simulate(main)


def test_hole11_p1_a_flush_covers_no_append_that_is_under_way() -> None:
    """HOLES 11: a put is on its way when the memtable is frozen. It lands, is acknowledged, and must be replayed."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        a.faults.latency_ms = (20.0, 20.0)
        writing = asyncio.create_task(a.write(10, [("h2", 2, 2.0)]))
        await asyncio.sleep(0.005)
        await a.engine.flush([])
        assert (await writing).outcome == pb.DONE
        await a.kill()
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane])
        assert await b.rows(11) == [("h1", 1, 1.0), ("h2", 2, 2.0)]
        await b.kill()

    simulate(main)


def test_p1_a_flush_covers_not_one_position_too_much() -> None:
    """P1: the very next append after a flush is not in its SST, so a successor must find it in the lane."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.engine.flush([])
        await a.put(10, [("h2", 2, 2.0)])
        await a.kill()
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane])
        assert await b.rows(11) == [("h1", 1, 1.0), ("h2", 2, 2.0)]
        await b.kill()

    simulate(main)


def test_p2_a_write_whose_region_is_taken_away_during_the_append_is_not_acknowledged() -> None:
    """P2: the append lands in a lane that goes on, but its region is closed here: the row is held by nobody."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        a.faults.latency_ms = (20.0, 20.0)
        writing = asyncio.create_task(a.write(10, [("h1", 1, 1.0)]))
        await asyncio.sleep(0.005)
        a.tell(order(nodes_pb2.CLOSE, 11))
        assert a.state() == "closed"
        assert (await writing).outcome == pb.UNKNOWN_OUTCOME
        await a.kill()

    simulate(main)
