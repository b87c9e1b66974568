"""What happens to a lane while a region opens in it, or closes an older stay there."""

import asyncio

import pytest

from groundwork.core.errors import Sealed, StoreUnavailable
from groundwork.core.ids import Lane, region_id
from groundwork.sim.objects import Bucket
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import TABLE, Node, R, order, simulate
from tests.integration.engine.test_review_cancel import Slow

OTHER = region_id(TABLE, 1)


@pytest.mark.parametrize("how", ["sealed", "damaged"])
def test_a_region_that_opens_in_a_lane_that_ends_meanwhile_does_not_say_that_it_serves(how: str) -> None:
    """It served in a lane that takes no append, for good where the node's other lanes were well: every write failed."""

    async def main(bucket: Bucket) -> None:
        gate = Slow("create", "/manifest/")
        a = await Node(bucket, "a", 1, gate=gate).start(lanes=2)
        await a.open(10, OTHER)
        gate.open.clear()
        a.tell(order(nodes_pb2.OPEN, 10, OTHER), order(nodes_pb2.OPEN, 11, R))
        await gate.reached.wait()
        if how == "sealed":
            b = await Node(bucket, "b", 2).start()
            await b.logs.seal(a.lane)
            await b.kill()
        else:
            taken = f"lanes/{a.lane}/{1:020d}"
            bucket.put(taken, b"somebody else's")
        await a.write(10, [("h", 1, 1.0)], OTHER)
        assert a.state(OTHER) == "failed"
        gate.open.set()
        await a.until(lambda: a.state(R) == "failed", 1_000)
        assert a.last("failed").failed.kind == "lane_over"
        assert not any(r.HasField("serving") and r.region_id == R for r in a.reports)
        a.tell(order(nodes_pb2.OPEN, 12, R, over=[a.lane], lane_index=1))  # as metasrv answers that
        await a.until(lambda: a.state(R) == ("serving" if how == "sealed" else "read_only"), 5_000)
        await a.kill()

    simulate(main)


def test_a_claim_waits_for_the_store_where_it_ends_a_stay_of_its_own() -> None:
    """Each other step of a claim does; here the region failed as if by a defect, and only another order opened it."""

    async def main(bucket: Bucket) -> None:
        down = asyncio.Event()

        async def gate(operation: str, key: str, when: str) -> None:
            if down.is_set() and operation == "create" and key.startswith("lanes/") and when == "before":
                raise StoreUnavailable(f"create {key}: 503, slow down")

        a = await Node(bucket, "a", 1, gate=gate).start()
        await a.open(10)
        await a.put(10, [("h", 1, 1.0)])
        down.set()
        a.tell(order(nodes_pb2.OPEN, 11, R))
        await asyncio.sleep(25)
        assert a.state() == "opening"
        down.clear()
        await a.until(lambda: a.state() == "serving", 5_000)
        assert await a.rows(11) == [("h", 1, 1.0)]
        assert not any(r.HasField("failed") for r in a.reports)
        await a.kill()

    simulate(main)


def test_a_start_that_comes_to_nothing_leaves_no_writer_behind() -> None:
    """One lane could not be opened; another's mark was still under way, and its writer was nobody's for ever."""

    async def main(bucket: Bucket) -> None:
        async def gate(operation: str, key: str, when: str) -> None:
            if operation == "create" and key.startswith(f"lanes/{Lane('a', 1, 1)}/") and when == "before":
                await asyncio.sleep(1)

        b = Node(bucket, "b", 2)
        await b.logs.seal(Lane("a", 1, 0))
        a = Node(bucket, "a", 1, gate=gate)
        with pytest.raises(Sealed):
            await a.engine.start(1, 2)
        await a.engine.abandon()
        await asyncio.sleep(5)
        assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    simulate(main)
