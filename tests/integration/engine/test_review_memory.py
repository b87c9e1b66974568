"""Back-pressure that ends: what was refused for want of memory makes room for itself."""

import asyncio

import msgspec

from groundwork.core.table import Column, Role, Schema
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, R, order, simulate

TEXTS = Schema(
    1,
    (
        Column("host", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        Column("value", "string", Role.FIELD),
    ),
)


def test_a_write_that_does_not_fit_is_not_refused_until_the_memtable_is_old() -> None:
    """Below three quarters of a small budget nothing was flushed, so a big write waited for `flush_age_ms`: minutes."""

    async def main(bucket: Bucket) -> None:
        config = msgspec.structs.replace(QUIET, tick_ms=200, memory_budget_bytes=100_000, flush_age_ms=3_600_000)
        a = await Node(bucket, "a", 1, config).start()
        await a.open(1, schema=TEXTS)
        await a.put(1, [("h", 1, "x" * 60_000)], schema=TEXTS)
        big = [("h", 2, "x" * 60_000)]
        refused = await a.write(1, big, schema=TEXTS)
        assert refused.outcome == pb.OVERLOADED
        await asyncio.sleep(1)
        await a.put(1, big, schema=TEXTS)
        await a.kill()

    simulate(main)


def test_rows_on_their_way_here_count_and_give_way_before_memory_runs_out() -> None:
    """A target counts what it tails; past its budget it gives the largest region up by name, and the owner goes on."""

    async def main(bucket: Bucket) -> None:
        small = msgspec.structs.replace(QUIET, memory_budget_bytes=100_000)
        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2, small).start()
        other = R + 1
        for region in (R, other):
            await a.open(10, region, schema=TEXTS)
        await a.put(10, [("h", 1, "x" * 20_000)], schema=TEXTS)
        await a.put(10, [("h", 1, "x" * 10_000)], other, schema=TEXTS)
        prepare = [order(nodes_pb2.PREPARE, 10, r, attempt=11, from_lane=a.lane) for r in (R, other)]
        b.tell(*prepare, schema=TEXTS)
        await b.until(lambda: sum(r.HasField("prepared") for r in b.reports) == 2)
        tailed = b.engine.memory_bytes()
        assert 30_000 < tailed < 40_000
        for n in range(2, 12):
            await a.put(10, [("h", n, "x" * 20_000)], schema=TEXTS)
            assert b.engine.memory_bytes() <= small.memory_budget_bytes
        await b.until(lambda: b.state() == "failed")
        failed = b.last("failed")
        assert failed.failed.kind == "memory_budget" and failed.epoch == 10
        assert "of 100,000 bytes" in failed.failed.message
        assert b.state(other) == "preparing", "a region that holds less goes on"
        assert 10_000 < b.engine.memory_bytes() < 20_000
        for region in (R, other):
            b.tell(order(nodes_pb2.CLOSE, 10, region))
        assert b.engine.memory_bytes() == 0
        assert len(await a.rows(10)) == 11
        await a.kill()
        await b.kill()

    simulate(main)


def test_a_write_that_is_refused_has_a_region_on_its_way_here_given_up() -> None:
    """What is tailed cannot be flushed, and a move can be made later: the writes of regions that are here go first."""

    async def main(bucket: Bucket) -> None:
        small = msgspec.structs.replace(QUIET, memory_budget_bytes=100_000)
        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2, small).start()
        own = R + 1
        await a.open(10, schema=TEXTS)
        await b.open(10, own, schema=TEXTS)
        await a.put(10, [("h", 1, "x" * 60_000)], schema=TEXTS)
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane), schema=TEXTS)
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        big = [("h", 1, "x" * 70_000)]
        assert (await b.write(10, big, own, schema=TEXTS)).outcome == pb.OVERLOADED
        await b.until(lambda: b.state() == "failed")
        assert b.last("failed").failed.kind == "memory_budget"
        await b.put(10, big, own, schema=TEXTS)
        await a.kill()
        await b.kill()

    simulate(main)


def test_what_was_tailed_counts_once_when_the_region_is_taken_over() -> None:
    """The rows of the memtable and those of the tail are the same: after the hand-over they count as the region's."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2).start()
        await a.open(10, schema=TEXTS)
        await a.put(10, [("h", n, "x" * 10_000) for n in range(3)], schema=TEXTS)
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane), schema=TEXTS)
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        before = b.engine.memory_bytes()
        a.tell(order(nodes_pb2.STOP, 10, attempt=11), schema=TEXTS)
        await a.until(lambda: any(r.HasField("stopped") for r in a.reports))
        stopped = a.last("stopped").stopped
        await b.open(12, ends=[(a.lane, stopped.stay_epoch, stopped.position)], schema=TEXTS)
        assert b.engine.memory_bytes() == before == b.info().memtable_bytes
        assert len(await b.rows(12)) == 3
        await a.kill()
        await b.kill()

    simulate(main)


def test_p1_a_region_that_is_being_opened_keeps_what_it_tailed() -> None:
    """P1: its tail still reads, for another region, when memory runs out: only who still prepares is given up."""

    async def main(bucket: Bucket) -> None:
        let_read, let_claim, reads, claims, written = (asyncio.Event() for _ in range(5))

        async def gate(operation: str, key: str, when: str) -> None:
            if when == "before" and key == f"lanes/{a.lane}/{3:020d}" and written.is_set():
                reads.set()
                await let_read.wait()
            if when == "before" and operation == "create" and key.startswith("regions/") and "/manifest/" in key:
                claims.set()
                await let_claim.wait()

        small = msgspec.structs.replace(QUIET, memory_budget_bytes=100_000)
        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2, small, gate).start()
        other = R + 1
        for region in (R, other):
            await a.open(10, region, schema=TEXTS)
        await a.put(10, [("h", 1, "x" * 60_000)], schema=TEXTS)
        await a.put(10, [("h", 1, "x" * 30_000)], other, schema=TEXTS)
        b.tell(*(order(nodes_pb2.PREPARE, 10, r, attempt=11, from_lane=a.lane) for r in (R, other)), schema=TEXTS)
        await b.until(lambda: sum(r.HasField("prepared") for r in b.reports) == 2)
        a.tell(order(nodes_pb2.STOP, 10, attempt=11), schema=TEXTS)
        await a.until(lambda: any(r.HasField("stopped") for r in a.reports))
        stopped = a.last("stopped").stopped
        written.set()
        await a.put(10, [("h", 2, "x" * 20_000)], other, schema=TEXTS)
        await reads.wait()
        ends = [(a.lane, stopped.stay_epoch, stopped.position)]
        b.tell(order(nodes_pb2.OPEN, 12, ends=ends), schema=TEXTS)
        await claims.wait()
        let_read.set()
        await b.until(lambda: b.state(other) == "failed")
        let_claim.set()
        await b.until(lambda: b.state() == "serving")
        assert [len(row[2]) for row in await b.rows(12)] == [60_000]
        await a.kill()
        await b.kill()

    simulate(main)


def test_who_is_given_up_hears_of_it_though_the_tail_ends() -> None:
    """The last region of a tail was told at the end of the look: another that closed meanwhile ended the tail first."""

    async def main(bucket: Bucket) -> None:
        prepared, written, reads, let_read = (asyncio.Event() for _ in range(4))

        async def gate(operation: str, key: str, when: str) -> None:
            if when == "before" and key == f"lanes/{a.lane}/{2:020d}" and prepared.is_set():
                await written.wait()
            if when == "before" and key == f"lanes/{a.lane}/{60:020d}":
                reads.set()
                await let_read.wait()

        small = msgspec.structs.replace(QUIET, memory_budget_bytes=100_000)
        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2, small, gate).start()
        other = R + 1
        await a.open(10, schema=TEXTS)
        await b.open(10, other, schema=TEXTS)
        await a.put(10, [("h", 1, "x" * 10_000)], schema=TEXTS)
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane), schema=TEXTS)
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        prepared.set()
        for n in range(2, 70):
            await a.put(10, [("h", n, "x" * 10_000)], schema=TEXTS)
        written.set()
        await reads.wait()
        b.tell(order(nodes_pb2.CLOSE, 10, other))
        await b.until(lambda: b.state() == "failed", ms=5_000)
        assert b.last("failed").failed.kind == "memory_budget"
        let_read.set()
        await a.kill()
        await b.kill()

    simulate(main)


def test_writes_that_wait_for_a_region_to_open_hold_a_part_of_the_budget_and_no_more() -> None:
    """They were counted by number only: ten thousand, each of up to 16 MiB, on a node that takes regions over."""

    async def main(bucket: Bucket) -> None:
        opening = asyncio.Event()

        async def gate(operation: str, key: str, when: str) -> None:
            if "/manifest/" in key:
                await opening.wait()

        config = msgspec.structs.replace(QUIET, memory_budget_bytes=100_000)
        a = await Node(bucket, "a", 1, config, gate).start()
        a.tell(order(nodes_pb2.OPEN, 1), schema=TEXTS)
        row = ("h", 1, "x" * 4_000)
        asked = [asyncio.create_task(a.write(1, [(f"h{n}", *row[1:])], schema=TEXTS)) for n in range(30)]
        await asyncio.sleep(0.1)
        most = a.engine.memory_bytes()
        assert 15_000 < most <= 25_000, most
        refused = [task.result() for task in asked if task.done()]
        assert len(refused) == 25, len(refused)
        assert {(r.outcome, r.retry_after_ms) for r in refused} == {(pb.OVERLOADED, 100)}
        opening.set()
        kept = [await task for task in asked]
        assert sum(outcome.outcome == pb.DONE for outcome in kept) == 5
        assert len(await a.rows(1)) == 5
        await a.engine.flush([])
        assert a.engine.memory_bytes() == 0
        await a.kill()

    simulate(main)


def test_one_write_that_waits_may_be_of_any_size() -> None:
    """A write bigger than that part waits where it is alone, and is counted while it does; its client may give up."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1, msgspec.structs.replace(QUIET, memory_budget_bytes=100_000)).start()
        a.tell(schema=TEXTS)
        big = asyncio.create_task(a.write(1, [("h", 1, "x" * 60_000)], schema=TEXTS))
        await asyncio.sleep(0.1)
        assert a.engine.memory_bytes() > 60_000 and not big.done()
        big.cancel()
        await asyncio.gather(big, return_exceptions=True)
        assert a.engine.memory_bytes() == 0
        await a.kill()

    simulate(main)
