"""A manifest whose bytes are not what was written: nothing is guessed, the region says so and stays closed."""

import pytest

from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import Node, order, simulate


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_a_damaged_manifest_is_named_and_nothing_is_written(how: str) -> None:
    """P1: the next owner reports `damaged` with the manifest's version, acknowledges nothing and creates nothing."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.kill()
        newest = max(key for key in bucket.objects if "/manifest/" in key)
        body = bytes(bucket.objects[newest])
        flipped = body[:40] + bytes([body[40] ^ 1]) + body[41:]
        damaged = {"cut": body[: len(body) // 2], "flipped": flipped, "empty": b""}
        bucket.objects[newest] = damaged[how]
        before = {key for key in bucket.objects if key.startswith("regions/")}
        b = await Node(bucket, "b", 2).start()
        b.tell(order(nodes_pb2.OPEN, 11, over=[a.lane]))
        await b.until(lambda: b.state() == "failed")
        failed = b.last("failed").failed
        assert failed.kind == "damaged"
        assert "manifest" in failed.message
        assert "\n" not in failed.message
        assert (await b.write(11, [("h1", 2, 2.0)])).outcome != pb.DONE
        assert {key for key in bucket.objects if key.startswith("regions/")} == before
        await b.kill()

    simulate(main)
