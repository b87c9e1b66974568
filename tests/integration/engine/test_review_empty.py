"""A write without rows: it has no place of its own in the order of writes."""

from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from tests.integration.engine.cluster import V1, V2, Node, R, region_write, simulate


def test_p1_a_write_without_rows_takes_nothing_of_the_write_behind_it() -> None:
    """P1: it shared its (epoch, sequence) with the next write, and neither scans nor flushes of the region worked."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(1)
        a.tell(schema=V2)
        await a.put(1, [("h", 1, 1.0)])
        empty, full = await a.engine.write(
            [region_write(1, [], R, V1), region_write(1, [("h", 2, 2.0, "x", "r")], R, V2)], 5_000
        )
        assert (empty.outcome, full.outcome) == (pb.BAD_REQUEST, pb.DONE)
        wanted = [("h", 1, 1.0, None, ""), ("h", 2, 2.0, "x", "r")]
        assert await a.rows(1) == wanted
        [flushed] = await a.engine.flush([])
        assert flushed.outcome == pb.DONE
        assert await a.rows(1) == wanted
        await a.kill()

    simulate(main)


def test_a_region_with_nothing_but_a_write_without_rows_can_be_flushed() -> None:
    """Such a write alone made every flush of its region fail, so its lane was never trimmed."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(1)
        assert (await a.write(1, [])).outcome == pb.BAD_REQUEST
        [flushed] = await a.engine.flush([])
        assert flushed.outcome == pb.DONE
        await a.kill()

    simulate(main)
