"""A tail that cannot go on: whoever waits for it hears why."""

from groundwork.adapters.lanes.format import FORMAT_VERSION, ObjectKind, encode_object
from groundwork.sim.objects import Bucket
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import Node, R, order, simulate


def test_a_target_that_cannot_read_the_owners_lane_says_so_at_once() -> None:
    """The owner runs a newer release: the move is to be cancelled with its reason, not by its deadline without one."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        b = await Node(bucket, "b", 2).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        b.tell(order(nodes_pb2.PREPARE, 10, attempt=11, from_lane=a.lane))
        await b.until(lambda: any(r.HasField("prepared") for r in b.reports))
        newer = bytearray(encode_object(ObjectKind.DATA, a.lane, 2, bytes(16), [b"what a newer release writes"]))
        newer[3] = FORMAT_VERSION + 1
        await a.store.create(f"lanes/{a.lane}/{2:020d}", bytes(newer))
        await b.until(lambda: b.state() == "failed", ms=5_000)
        failed = b.last("failed").failed
        assert failed.kind == "damaged" and "run the newer release" in failed.message
        b.tell(order(nodes_pb2.CLOSE, 10))
        assert b.state(R) == "closed"
        await a.kill()
        await b.kill()

    simulate(main)
