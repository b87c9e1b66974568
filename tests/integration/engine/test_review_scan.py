"""A scan that is still under way when its region leaves."""

import asyncio

from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, order, simulate


def test_a_file_that_the_next_owner_deleted_is_no_damage() -> None:
    """The reader is sent to the next owner; it was told that acknowledged rows are damaged, and gave up."""

    async def main(bucket: Bucket) -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def gate(operation: str, key: str, when: str) -> None:
            if operation == "get" and key.endswith(".parquet") and when == "before":
                asked.set()
                await go_on.wait()

        a = await Node(bucket, "a", 1, QUIET, gate).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.engine.flush([])
        scan = asyncio.create_task(a.scan(10))
        await asked.wait()
        a.tell(order(nodes_pb2.CLOSE, 11))
        for key in [key for key in bucket.objects if key.endswith(".parquet")]:
            del bucket.objects[key]
        go_on.set()
        refused = await scan
        assert isinstance(refused, pb.RegionOutcome) and refused.outcome == pb.STOPPED, refused
        await a.kill()

    simulate(main)
