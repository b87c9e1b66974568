"""A region that must close itself says what the next claim needs; one whose lane is out says that too."""

from groundwork.core.entry import Entry, Kind
from groundwork.core.wire import lane_from_wire
from groundwork.sim.objects import Bucket
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import Node, R, order, simulate


def test_a_fenced_region_says_where_its_stay_ended() -> None:
    """Hole 16: a fenced owner reports its last position, settled by a barrier: the next claim ends the stay there."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        await a.put(10, [("h1", 1, 1.0)])
        a.engine._orders.fail(a.engine._regions[R], "fenced", "told by a test")
        await a.until(lambda: a.reports[-1].HasField("failed"))
        failed = a.last("failed").failed
        assert lane_from_wire(failed.lane) == a.lane and failed.stay_epoch == 10 and failed.position == 3
        assert (await a.write(10, [("h1", 2, 2.0)])).outcome != pb.DONE
        b = await Node(bucket, "b", 2).start()
        await b.open(11, ends=[(a.lane, failed.stay_epoch, failed.position)])
        assert await b.rows(11) == [("h1", 1, 1.0)], "the lane of A lives on: nothing was sealed"
        assert (await a.engine._context.lanes[0].append(Entry(Kind.CANARY, 0, 0, 0, 0, 0, b""))) == 3
        await a.kill()
        await b.kill()

    simulate(main)


def test_a_fenced_region_reports_without_a_position_while_the_store_is_silent() -> None:
    """What is not known is not said: where the barrier hangs, the report goes out without a position."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        a.faults.hang = True
        a.engine._orders.fail(a.engine._regions[R], "fenced", "told by a test")
        await a.until(lambda: a.reports[-1].HasField("failed"))
        assert not a.last("failed").failed.HasField("position")
        a.faults.heal()
        await a.kill()

    simulate(main)


def test_a_claim_names_the_lane_that_it_may_not_seal() -> None:
    """The report of a claim that met a live lane names it and the stay there, for metasrv to look up."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        b = await Node(bucket, "b", 2).start()
        b.tell(order(nodes_pb2.OPEN, 11))
        await b.until(lambda: b.state() == "failed")
        failed = b.last("failed").failed
        assert (failed.kind, lane_from_wire(failed.lane), failed.stay_epoch) == ("lane_not_over", a.lane, 10)
        assert not failed.HasField("position")
        await a.kill()
        await b.kill()

    simulate(main)


def test_a_damaged_writer_is_out_of_its_lane() -> None:
    """An object of nobody in the lane's next place: no append ever again, and the region says that the lane is over."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1).start()
        await a.open(10)
        bucket.objects[f"lanes/{a.lane}/{1:020d}"] = b"whoever wrote this"
        assert (await a.write(10, [("h1", 1, 1.0)])).outcome == pb.UNKNOWN_OUTCOME
        assert a.state() == "failed" and a.last("failed").failed.kind == "lane_over"
        assert not a.engine.lanes_health()[0].open
        await a.kill()

    simulate(main)
