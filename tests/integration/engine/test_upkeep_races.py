"""Upkeep that is overtaken by orders: what it began for an owner it must not finish for a region that has left."""

import asyncio

from groundwork.sim.objects import Bucket
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
