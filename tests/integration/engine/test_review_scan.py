"""A scan that is still under way when its region leaves."""

import asyncio

import msgspec
import pyarrow as pa

from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, Node, R, order, simulate


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


def test_files_stay_for_a_reader_that_is_slow_to_fetch_the_first_piece() -> None:
    """They were held from the second piece on only: after a merge and its grace the reader was told of damaged rows."""

    async def main(bucket: Bucket) -> None:
        config = msgspec.structs.replace(QUIET, files_max=2, delete_grace_ms=1_000, tick_ms=100, settle_ms=100)
        a = await Node(bucket, "a", 1, config).start()
        await a.open(10)
        for n in range(2):
            await a.put(10, [("h", n, 1.0)])
            await a.engine.flush([])
        scan = a.engine.scan(pb.ScanRequest(region_id=R, epoch=10), 600_000)
        pieces = [(await anext(scan)).ipc]
        read = [key for key in bucket.objects if key.endswith(".parquet")]
        a.engine._context.memory.limit_bytes = 1_000  # so that each write is flushed, and looked after
        for n in range(2, 12):
            await a.put(10, [("h", n, 1.0)])
            await asyncio.sleep(1)
        assert a.info().sst_files <= 3  # they were merged long ago
        assert set(read) <= set(bucket.objects)
        async for reply in scan:
            assert not reply.HasField("refused"), reply.refused
            pieces.append(reply.ipc)
        assert pa.ipc.open_stream(b"".join(pieces)).read_all().num_rows == 2
        for n in range(12, 20):
            await a.put(10, [("h", n, 1.0)])
            await asyncio.sleep(1)
        assert not set(read) & set(bucket.objects)  # and go when it has read them
        await a.kill()

    simulate(main)
