"""Claims, epochs and names in the wrong order: what an owner must not take for its own."""

import asyncio

import msgspec

from groundwork.core.manifest import manifest_key
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, R, order, simulate

CLEANING = msgspec.structs.replace(QUIET, manifests_kept=2)


class Hold:
    """A gate that holds creates of one key before they take effect, until it is opened."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, operation: str, key: str, when: str) -> None:
        """Hold what was asked for."""
        if operation == "create" and self.part in key and when == "before" and not self.open.is_set():
            self.reached.set()
            await self.open.wait()


def test_hole9_p2_a_late_first_claim_under_a_freed_name_does_not_count() -> None:
    """P2, hole 9: B's first manifest is put when A's versions have been cleaned up: it is void."""

    async def main(bucket: Bucket) -> None:
        gate = Hold(manifest_key(R, 1))
        b = await Node(bucket, "b", 2, gate=gate).start()
        b.tell(order(nodes_pb2.OPEN, 11))
        await gate.reached.wait()
        a = await Node(bucket, "a", 1, CLEANING).start()
        await a.open(12)
        for n in range(6):
            await a.put(12, [("h1", 1, float(n))])
            await a.engine.flush([])
            await a.engine._orders.flusher.clean(a.engine._regions[R])
        assert manifest_key(R, 1) not in bucket.objects, "the name that B's claim will take is free"
        gate.open.set()
        await b.until(lambda: b.state() != "opening")
        assert b.state() == "failed" and b.last("failed").failed.kind == "newer_epoch"
        assert (await b.write(11, [("h1", 1, 99.0)])).outcome != pb.DONE
        assert await a.rows(12) == [("h1", 1, 5.0)]
        await a.kill()
        await b.kill()

    simulate(main)


def test_p1_a_region_that_served_is_not_opened_again_under_the_same_epoch() -> None:
    """P1: a region fails with rows only in its lane; the same epoch again must not stand on the claim it had, empty."""

    async def main(bucket: Bucket) -> None:
        c = await Node(bucket, "c", 3).start()
        await c.open(9)
        a = await Node(bucket, "a", 1).start()
        c.tell(order(nodes_pb2.STOP, 9, attempt=1))
        await c.until(lambda: c.state() == "stopped")
        told = c.last("stopped").stopped
        await a.open(10, ends=[(c.lane, told.stay_epoch, told.position)])
        await a.put(10, [("h1", 1, 1.0)])
        a.engine._orders.fail(a.engine._regions[R], "internal", "a defect in one of its tasks")
        # The same order, but for the lane of C, which has died since.
        a.tell(order(nodes_pb2.OPEN, 10, over=[c.lane], ends=[(c.lane, told.stay_epoch, told.position)]))
        await a.until(lambda: a.state() in ("serving", "failed"))
        await asyncio.sleep(1)
        if a.state() == "serving":
            assert await a.rows(10) == [("h1", 1, 1.0)]
        await a.open(13)  # what metasrv does about a region that failed
        assert await a.rows(13) == [("h1", 1, 1.0)]
        await a.kill()
        await c.kill()

    simulate(main)


def test_a_failed_region_that_is_told_to_resume_asks_for_a_new_epoch() -> None:
    """RESUME goes on in the stay that a region has: one that failed has none, and a claim would make one unknown."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        a.tell(order(nodes_pb2.STOP, 10, attempt=11))
        await a.until(lambda: a.state() == "stopped")
        a.engine._orders.fail(a.engine._regions[R], "internal", "a defect in one of its tasks")
        a.reports.clear()
        a.tell(order(nodes_pb2.RESUME, 12))
        await a.until(lambda: any(r.HasField("failed") or r.HasField("serving") for r in a.reports))
        assert a.state() == "failed" and a.last("failed").epoch == 12
        await a.open(13)
        assert await a.rows(13) == [("h1", 1, 1.0)]
        await a.put(13, [("h2", 2, 2.0)])
        await a.kill()

    simulate(main)


def test_a_flush_that_lost_against_the_regions_own_next_claim_fails_nobody() -> None:
    """A slow flush of epoch 10 meets the version that the same node claimed at 12: the region of 12 serves on."""

    async def main(bucket: Bucket) -> None:
        gate = Hold(manifest_key(R, 2))
        a = await Node(bucket, "a", 1, gate=gate).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        flushing = asyncio.create_task(a.engine.flush([R]))
        await gate.reached.wait()
        gate.part = "held is only what waits already"
        await a.open(12)
        gate.open.set()
        await flushing
        assert a.state() == "serving" and not any(r.HasField("failed") for r in a.reports)
        assert await a.rows(12) == [("h1", 1, 1.0)]
        [outcome] = await a.engine.flush([R])
        assert outcome.outcome == pb.DONE
        await a.kill()

    simulate(main)


def test_a_region_that_failed_says_so_until_it_is_told_what_to_do() -> None:
    """A Serving report that was held up on its way comes in behind the Failed one: metasrv must hear of it again."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1, msgspec.structs.replace(QUIET, tick_ms=200)).start()
        await a.open(10)
        a.engine._orders.fail(a.engine._regions[R], "internal", "a defect in one of its tasks")
        a.reports.clear()
        await a.until(lambda: any(r.HasField("failed") and r.epoch == 10 for r in a.reports))
        await a.open(11)
        a.reports.clear()
        await asyncio.sleep(30)
        assert not any(r.HasField("failed") for r in a.reports)
        await a.kill()

    simulate(main)
