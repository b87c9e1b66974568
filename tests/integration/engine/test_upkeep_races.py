"""Upkeep that is overtaken by orders: what it began for an owner it must not finish for a region that has left."""

import asyncio

import msgspec

from groundwork.sim.objects import Bucket, Gate
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, R, order, simulate


def test_clean_up_ends_when_the_region_is_taken_away() -> None:
    """Found by the simulator (seed 137): the region was handed over while its clean-up waited for the store."""

    async def main(bucket: Bucket) -> None:
        held, asked = asyncio.Event(), asyncio.Event()
        held.set()

        async def gate(operation: str, key: str, when: str) -> None:
            if operation == "list" and not held.is_set():
                asked.set()
                await held.wait()

        node = await Node(bucket, "dn-1", 1, QUIET, gate).start()
        await node.open(10)
        await node.put(10, [("h1", 1, 1.0)])
        while node.info().manifest_version % QUIET.manifests_kept:
            await node.put(10, [("h1", 1, 1.0)])
            await node.engine.flush([R])
        held.clear()
        region = node.engine._regions[R]
        cleaning = asyncio.create_task(node.engine._orders.flusher.clean(region))
        await asked.wait()
        node.tell(order(nodes_pb2.CLOSE, 12))
        assert node.state() == "closed"
        held.set()
        await cleaning
        await node.kill()

    simulate(main)


def test_a_flush_that_ends_late_leaves_the_region_on_its_new_claim() -> None:
    """Its last look at the store was before the region failed and was claimed anew: it must not stand on it again."""

    async def main(bucket: Bucket) -> None:
        held, looked = asyncio.Event(), asyncio.Event()
        held.set()

        async def gate(operation: str, key: str, when: str) -> None:
            if operation == "list" and when == "after" and not held.is_set() and not looked.is_set():
                looked.set()
                await held.wait()

        node = await Node(bucket, "dn-1", 1, QUIET, gate).start()
        await node.open(10)
        await node.put(10, [("h1", 1, 1.0)])
        held.clear()
        flushing = asyncio.create_task(node.engine.flush([R]))
        await looked.wait()
        node.engine._orders.fail(node.engine._regions[R], "internal", "a defect in one of its tasks")
        await node.open(12)
        await node.put(12, [("h1", 2, 2.0)])
        held.set()
        await flushing
        await node.put(12, [("h1", 3, 3.0)])
        [flushed] = await node.engine.flush([R])
        assert flushed.outcome == pb.DONE, flushed
        assert await node.rows(12) == [("h1", 1, 1.0), ("h1", 2, 2.0), ("h1", 3, 3.0)]
        await node.kill()

    simulate(main)


MERGES_SOON = msgspec.structs.replace(QUIET, files_max=2)


async def _with_files(bucket: Bucket, gate: Gate | None = None) -> Node:
    """A datanode whose region has files enough to be merged."""
    node = await Node(bucket, "dn-1", 1, MERGES_SOON, gate).start()
    await node.open(10)
    for at in (1, 2, 3, 4):
        await node.put(10, [("h1", at, float(at))])
        await node.engine.flush([R])
    return node


def test_a_merge_that_waits_for_its_turn_ends_when_the_region_is_taken_away() -> None:
    """Found by the simulator (seed 1677439035958): it was chosen before it waited, and done after."""

    async def main(bucket: Bucket) -> None:
        node = await _with_files(bucket)
        region, flusher = node.engine._regions[R], node.engine._orders.flusher
        turns = 0
        while not flusher._slots.locked():
            await flusher._slots.acquire()
            turns += 1
        merging = asyncio.create_task(flusher.compact(region))
        await asyncio.sleep(0)
        node.tell(order(nodes_pb2.CLOSE, 12))
        assert node.state() == "closed"
        for _ in range(turns):
            flusher._slots.release()
        assert not await merging
        await node.kill()

    simulate(main)


def test_p1_a_merge_that_began_in_an_older_stay_is_not_committed() -> None:
    """P1: clean-up deletes unnamed files of older epochs once per stay; a manifest must not name one of them later."""

    async def main(bucket: Bucket) -> None:
        held, made = asyncio.Event(), asyncio.Event()
        held.set()

        async def gate(operation: str, key: str, when: str) -> None:
            if operation == "create" and "/sst/" in key and when == "after" and not held.is_set():
                made.set()
                await held.wait()

        node = await _with_files(bucket, gate)
        region, flusher = node.engine._regions[R], node.engine._orders.flusher
        held.clear()
        merging = asyncio.create_task(flusher.compact(region))
        await made.wait()
        node.engine._orders.fail(region, "internal", "a defect in one of its tasks")
        await node.open(12)
        before = node.info().manifest_version
        held.set()
        assert not await merging
        assert node.info().manifest_version == before
        assert await node.rows(12) == [("h1", at, float(at)) for at in (1, 2, 3, 4)]
        await node.kill()

    simulate(main)
