"""Upkeep that is overtaken by orders: what it began for an owner it must not finish for a region that has left."""

import asyncio

from groundwork.sim.objects import Bucket
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
