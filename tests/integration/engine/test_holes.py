"""The holes that the model found in the first draft, each held shut by a test that quotes it."""

import asyncio

import msgspec
import pytest

from groundwork.core.entry import Entry, Kind, encode
from groundwork.core.ids import Lane, region_id
from groundwork.core.manifest import decode_manifest, manifest_key
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, TABLE, Node, R, order, region_write, simulate, told_lane

CLEANING = msgspec.structs.replace(QUIET, files_max=1, delete_grace_ms=0, manifests_kept=2)


def ssts(bucket: Bucket) -> set[str]:
    """The SSTs that exist."""
    return {k for k in bucket.objects if "/sst/" in k}


async def served(bucket: Bucket, name: str, token: int, epoch: int, over: list[Lane]) -> Node:
    """A node that serves the region."""
    node = await Node(bucket, name, token, CLEANING).start()
    await node.open(epoch, over=over)
    return node


def test_hole6_a_late_claim_stops_at_a_higher_epoch() -> None:
    """Hole 6: B is slow to open at epoch 11; A serves at 12; B's late claim stops and does not try again."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        await a.put(10, [("h1", 1, 1.0)])
        b = await Node(bucket, "b", 2, CLEANING).start()
        b.faults.hang = True
        b.tell(order(nodes_pb2.OPEN, 11, over=[a.lane]))
        c = await served(bucket, "c", 3, 12, [a.lane])
        b.faults.heal()
        await b.until(lambda: b.state() == "failed")
        assert b.last("failed").failed.kind == "newer_epoch"
        assert await c.rows(12) == [("h1", 1, 1.0)]
        await c.put(12, [("h1", 1, 2.0)])
        for node in (a, b, c):
            await node.kill()

    simulate(main)


def test_a_lane_that_is_not_over_is_never_sealed() -> None:
    """A claim that meets an open stay in a live lane stops and reports; it goes on when the order says it is over."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        b = await Node(bucket, "b", 2, CLEANING).start()
        b.tell(order(nodes_pb2.OPEN, 11))
        await b.until(lambda: b.state() == "failed")
        assert b.last("failed").failed.kind == "lane_not_over"
        await a.put(10, [("h1", 1, 1.0)])
        b.tell(order(nodes_pb2.OPEN, 11))
        assert b.state() == "failed", "the same order again changes nothing"
        await b.open(11, over=[a.lane])
        assert await b.rows(11) == [("h1", 1, 1.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_hole8_a_zombie_deletes_no_file_of_its_successor() -> None:
    """Hole 8: an old owner that wakes and cleans up touches nothing that the new owner's manifest names."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        await a.put(10, [("h1", 1, 1.0)])
        await a.engine.flush([])
        b = await served(bucket, "b", 2, 11, [a.lane])
        await b.put(11, [("h1", 2, 2.0)])
        await b.engine.flush([])
        orphan = "regions/7/000000/sst/0000000000000003-x.parquet"
        bucket.objects[orphan] = b"of an owner that died before its commit"
        before = ssts(bucket)
        await asyncio.sleep(1)
        await a.engine._orders.flusher.clean(a.engine._regions[R])
        assert before - ssts(bucket) == {orphan}, "only what nobody can name again"
        await b.engine._orders.flusher.compact(b.engine._regions[R])
        await b.engine._orders.flusher.clean(b.engine._regions[R])
        assert len(ssts(bucket)) == 1 and await b.rows(11) == [("h1", 1, 1.0), ("h1", 2, 2.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_hole9_a_commit_under_a_freed_name_does_not_count() -> None:
    """Hole 9: clean-up freed the name that a zombie's next version would take; with versions above it, it is void."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        await a.put(10, [("h1", 1, 1.0)])
        b = await served(bucket, "b", 2, 11, [a.lane])
        for n in range(6):
            await b.put(11, [("h1", 2, float(n))])
            await b.engine.flush([])
            await b.engine._orders.flusher.clean(b.engine._regions[R])
        assert manifest_key(R, 2) not in bucket.objects, "the name that A's commit will take is free"
        [outcome] = await a.engine.flush([])
        assert outcome.outcome == pb.NOT_OWNER
        await a.until(lambda: a.reports[-1].HasField("failed"))
        failed = a.last("failed").failed
        assert failed.kind == "fenced" and not failed.HasField("position"), "its lane is sealed: it cannot know"
        assert await b.rows(11) == [("h1", 1, 1.0), ("h1", 2, 5.0)]
        await b.put(11, [("h1", 2, 9.0)])
        await b.engine.flush([])
        c = await served(bucket, "c", 3, 12, [b.lane])
        assert await c.rows(12) == [("h1", 1, 1.0), ("h1", 2, 9.0)]
        for node in (a, b, c):
            await node.kill()

    simulate(main)


def test_hole10_the_order_of_writes_survives_an_empty_replay() -> None:
    """Hole 10: after flush, failover and a replay of nothing, a new write still wins over the flushed one."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        for n in range(20):
            await a.put(10, [("h1", 1, float(n))])
        await a.engine.flush([])
        await a.kill()
        b = await served(bucket, "b", 2, 11, [a.lane])
        await b.put(11, [("h1", 1, 100.0)])
        assert await b.rows(11) == [("h1", 1, 100.0)]
        await b.engine.flush([])
        await b.engine._orders.flusher.compact(b.engine._regions[R])
        assert await b.rows(11) == [("h1", 1, 100.0)]
        await b.kill()

    simulate(main)


def test_hole11_covered_never_overtakes_the_memtable() -> None:
    """Hole 11: flushes race many concurrent writes with slow, reordered puts; a successor still has all of them."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        a.faults.latency_ms = (0.0, 30.0)
        writes = [asyncio.create_task(a.write(10, [(f"h{n}", n, float(n))])) for n in range(60)]
        flushes = []
        for _ in range(8):
            await asyncio.sleep(0.02)
            flushes.append(asyncio.create_task(a.engine.flush([])))
        outcomes = await asyncio.gather(*writes)
        await asyncio.gather(*flushes)
        done = {f"h{n}" for n, o in enumerate(outcomes) if o.outcome == pb.DONE}
        await a.kill()
        b = await served(bucket, "b", 2, 11, [a.lane])
        assert done and done <= {row[0] for row in await b.rows(11)}
        await b.kill()

    simulate(main)


def test_hole18_an_idle_region_lets_the_lane_be_trimmed() -> None:
    """Hole 18: a region that writes nothing commits an advanced position, and opens again after the trim."""

    async def main(bucket: Bucket) -> None:
        config = msgspec.structs.replace(QUIET, flush_age_ms=1_000, tick_ms=100)
        a = await Node(bucket, "a", 1, config).start()
        other = region_id(TABLE, 1)
        await a.open(10)
        await a.open(10, other)
        for n in range(5):
            await a.put(10, [("h1", n, 1.0)], other)
        await a.until(lambda: a.last_covered(R) >= 6 and a.last_covered(other) >= 6)
        reply = nodes_pb2.OrdersReply(revision=99)
        reply.trims.add(below=6).lane.CopyFrom(told_lane(a.lane))
        a.engine.apply(reply)
        await a.until(lambda: f"lanes/{a.lane}/{3:020d}" not in bucket.objects)
        await a.kill()
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane])
        await b.open(11, other, over=[a.lane])
        assert len(await b.rows(11, other)) == 5 and await b.rows(11) == []
        await b.kill()

    simulate(main)


def test_hole18_trimmed_with_an_unchanged_manifest_stops_loudly() -> None:
    """Hole 18: entries that a manifest needs are gone: the region fails as `trimmed`, others of the lane serve."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        other = region_id(TABLE, 1)
        await a.put(10, [("h1", 1, 1.0)])
        await a.open(10, other)
        await a.put(10, [("h1", 1, 1.0)], other)
        await a.logs.trim(a.lane, 2)  # somebody trims what the index forbids
        await a.kill()
        b = await Node(bucket, "b", 2).start()
        b.tell(order(nodes_pb2.OPEN, 11, R, over=[a.lane]), order(nodes_pb2.OPEN, 11, other, over=[a.lane]))
        await b.until(lambda: b.state(R) == "failed" and b.state(other) == "serving")
        assert b.last("failed").failed.kind == "trimmed"
        assert len(await b.rows(11, other)) == 1
        await b.kill()

    simulate(main)


@pytest.mark.parametrize("at", ["head", "payload"])
def test_a_damaged_entry_opens_its_region_read_only(at: str) -> None:
    """A damaged acknowledged entry: its region opens read-only and says so; one that provably lost nothing serves."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        other = region_id(TABLE, 1)
        await a.open(10, other)
        for n in range(3):
            await a.put(10, [("h1", n, 1.0)])
            await a.put(10, [("h1", n, 1.0)], other)
        await a.kill()
        key = f"lanes/{a.lane}/{3:020d}"  # the second write of R
        body = bytearray(bucket.objects[key])
        body[len(body) - 10 if at == "payload" else len(body) // 3] ^= 0xFF
        bucket.objects[key] = bytes(body)
        b = await Node(bucket, "b", 2).start()
        b.tell(order(nodes_pb2.OPEN, 11, R, over=[a.lane]), order(nodes_pb2.OPEN, 11, other, over=[a.lane]))
        await b.until(lambda: b.state(R) == "read_only" and b.state(other) == "serving")
        failed = b.last("failed").failed
        assert failed.kind == "damaged" and failed.read_only
        assert (await b.write(11, [("h9", 9, 9.0)])).outcome == pb.READ_ONLY
        assert ("h1", 0, 1.0) in await b.rows(11) and len(await b.rows(11, other)) == 3
        await b.kill()

    simulate(main)


def test_a_bad_batch_never_enters_a_lane() -> None:
    """Rows that could not be read back are refused before the append, and the lane holds nothing of them."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        good = region_write(10, [("h1", 1, 1.0)])
        objects = len(bucket.objects)
        for change in (
            {"batch": b""}, {"batch": good.batch[:-8]}, {"batch": good.batch + bytes(8)}, {"batch": b"x" * 200},
            {"rows": 2}, {"schema_version": 9}, {"batch": region_write(10, [(None, 1, 1.0)]).batch},
            {"batch": region_write(10, [("h1", None, 1.0)]).batch},
        ):  # fmt: skip
            bad = pb.RegionWrite()
            bad.CopyFrom(good)
            for name, value in change.items():
                setattr(bad, name, value)
            [outcome] = await a.engine.write([bad], 50)
            assert outcome.outcome in (pb.BAD_REQUEST, pb.UNKNOWN_SCHEMA), (change, outcome)
        assert len(bucket.objects) == objects
        await a.kill()

    simulate(main)


def test_memory_budget_refuses_and_recovers() -> None:
    """Past the budget writes are OVERLOADED with a hint; after a flush they are taken again."""

    async def main(bucket: Bucket) -> None:
        config = msgspec.structs.replace(QUIET, memory_budget_bytes=20_000)
        a = await Node(bucket, "a", 1, config).start()
        await a.open(10)
        outcomes = await a.engine.write([region_write(10, [("h1", n, 1.0)]) for n in range(60)], 1_000)
        assert outcomes[-1].outcome == pb.OVERLOADED and outcomes[-1].retry_after_ms >= 10
        await a.until(lambda: a.engine.unflushed_bytes() == 0)
        await a.put(10, [("h1", 99, 1.0)])
        assert len(await a.rows(10)) == 1 + sum(o.outcome == pb.DONE for o in outcomes)
        await a.kill()

    simulate(main)


def test_no_lease_refuses_and_a_renewal_resumes() -> None:
    """P7: without a lease nothing is served, memtables stay, and a renewed lease goes on where it was."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        await a.put(10, [("h1", 1, 1.0)])
        a.lease.on = False
        assert (await a.write(10, [("h1", 1, 2.0)])).outcome == pb.NO_LEASE
        refused = await a.scan(10)
        assert isinstance(refused, pb.RegionOutcome) and refused.outcome == pb.NO_LEASE
        a.lease.on = True
        assert await a.rows(10) == [("h1", 1, 1.0)]
        await a.kill()

    simulate(main)


def test_the_first_append_waits_for_the_grant() -> None:
    """A lane acknowledges nothing before a grant that was asked for after its OPEN mark."""

    async def main(bucket: Bucket) -> None:
        a = Node(bucket, "a", 1)
        await a.engine.start(1, 1)
        await a.open(10)
        writing = asyncio.create_task(a.write(10, [("h1", 1, 1.0)]))
        await asyncio.sleep(0.5)
        assert not writing.done() and f"lanes/{a.lane}/{1:020d}" not in bucket.objects
        a.engine.admit([0])
        assert (await writing).outcome == pb.DONE
        await a.kill()

    simulate(main)


def test_the_manifest_names_the_stay_before_the_first_append() -> None:
    """Hole 5: the claim itself opens the stay in the claimant's own lane."""

    async def main(bucket: Bucket) -> None:
        a = await served(bucket, "a", 1, 10, [])
        manifest = decode_manifest(bucket.objects[manifest_key(R, 1)], R, 1)
        [stay] = manifest.stays
        assert stay.lane == a.lane and stay.epoch == 10 and stay.end is None and stay.start == 1
        assert len(encode(Entry(Kind.CANARY, 0, 0, 0, 0, 0, b""), a.lane)) == 56
        await a.kill()

    simulate(main)
