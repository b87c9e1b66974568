"""A region's life on one node and the next: open, write, read, flush, fail over, go on."""

from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from tests.integration.engine.cluster import V1, V2, Node, R, simulate


def test_first_life() -> None:
    """A new region opens, takes rows, overwrites by key and time, and reads them back."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0), ("h2", 1, 2.0), ("h1", 2, 3.0)])
        await a.put(10, [("h1", 1, 9.0)])
        assert await a.rows(10) == [("h1", 1, 9.0), ("h1", 2, 3.0), ("h2", 1, 2.0)]
        assert await a.rows(10, from_ns=2, to_ns=3) == [("h1", 2, 3.0)]
        assert await a.rows(10, columns=["value"]) == [(2.0,), (3.0,), (9.0,)]
        assert len(await a.rows(10, limit=2)) == 2
        await a.kill()

    simulate(main)


def test_flush_keeps_rows() -> None:
    """Rows are the same before and after a flush, and later writes win over what is in SSTs."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0), ("h2", 1, 2.0)])
        [outcome] = await a.engine.flush([R])
        assert outcome.outcome == pb.DONE
        assert a.info().sst_files == 1 and a.engine.unflushed_bytes() == 0 and a.engine.memory_bytes() == 0
        await a.put(10, [("h1", 1, 5.0)])
        assert await a.rows(10) == [("h1", 1, 5.0), ("h2", 1, 2.0)]
        await a.engine.flush([])
        assert await a.rows(10) == [("h1", 1, 5.0), ("h2", 1, 2.0)]
        [stay] = a.last("covered").covered.stays
        assert stay.covered == 3 and not stay.done
        await a.kill()

    simulate(main)


def test_p1_failover_keeps_acknowledged_rows() -> None:
    """P1: after a crash the next owner seals, claims and replays, and serves with every acknowledged write."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.engine.flush([])
        await a.put(10, [("h1", 1, 2.0), ("h3", 4, 4.0)])
        await a.kill()
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane])
        assert b.last("serving").serving.replayed_entries == 1
        assert await b.rows(11) == [("h1", 1, 2.0), ("h3", 4, 4.0)]
        await b.put(11, [("h1", 1, 3.0)])
        assert await b.rows(11) == [("h1", 1, 3.0), ("h3", 4, 4.0)]
        await b.kill()

    simulate(main)


def test_schema_widens() -> None:
    """Rows of two schema versions live together; a tag that came later is "" in older rows and part of the key."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        await a.engine.flush([])
        await a.put(10, [("h1", 2, 2.0)])
        a.tell(schema=V2)
        await a.put(10, [("h1", 1, 5.0, "n", "r1"), ("h1", 2, 6.0, None, "")], schema=V2)
        want = [("h1", 1, 1.0, None, ""), ("h1", 1, 5.0, "n", "r1"), ("h1", 2, 6.0, None, "")]
        assert await a.rows(10, schema_version=2) == want
        assert await a.rows(10, schema_version=1) == [("h1", 1, 1.0), ("h1", 1, 5.0), ("h1", 2, 6.0)]
        await a.kill()
        b = await Node(bucket, "b", 2).start()
        await b.open(11, over=[a.lane], schema=V1)  # an order that does not know the newer schema yet
        assert await b.rows(11, schema_version=2) == want
        await b.engine.flush([])
        assert await b.rows(11) == want
        await b.kill()

    simulate(main)
