"""A region that serves reads only, and moves: its owner cannot stop it, so no move of it can end."""

import asyncio

import msgspec
import pytest

from groundwork.core.entry import Entry, Kind
from groundwork.core.errors import BadInput
from groundwork.sim.objects import Bucket
from metasrv.core import commands as c
from metasrv.core.leases import NodeView
from metasrv.core.planner import plan_migration
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2
from tests.integration.engine.cluster import QUIET, V1, Node, R, order, simulate
from tests.integration.engine.test_accept_loss import World

FLUSHING = msgspec.structs.replace(QUIET, tick_ms=50, flush_age_ms=100)


async def _spoil(node: Node, epoch: int, region_id: int) -> None:
    """One row that is read, and an entry whose checksum holds and whose rows do not: the next flush finds it."""
    await node.put(epoch, [("h1", 1, 1.0)], region_id)
    await node.engine._context.lanes[0].append(Entry(Kind.DATA, region_id, epoch, 2, 1, 1, b"x" * 64))
    await node.until(lambda: node.state(region_id) == "read_only")


def test_a_region_that_reads_only_is_not_moved() -> None:
    """Each attempt ended at its deadline, and the route had an epoch then under which nobody answered."""

    async def main(bucket: Bucket) -> None:
        world = World(bucket)
        a, b = await world.start("a", FLUSHING), await world.start("b")
        world.propose(c.CreateTable(name="cpu", columns=V1.columns, lanes=(a.lane,), placement=(0,)))
        state = world.machine.state
        [(region_id, region)] = state.regions.items()
        await a.until(lambda: a.state(region_id) == "serving")
        await _spoil(a, region.epoch, region_id)
        outcome = world.propose(c.StartMigration(moves=(c.Placement(region_id, b.lane),)))
        assert "reads only" in outcome.refused
        seen = {n: NodeView(n, 0.0, True, True, True, (0,)) for n in ("a", "b")}
        with pytest.raises(BadInput, match="accept its loss"):
            plan_migration(state, seen, [region_id])
        assert state.regions[region_id].epoch == region.epoch
        await a.kill()
        await b.kill()

    simulate(main)


def test_reads_go_on_where_it_was_damaged_while_it_was_to_be_moved() -> None:
    """The STOP cannot be obeyed; what follows at its deadline names a new epoch, and reads are answered under that."""

    async def main(bucket: Bucket) -> None:
        a = await Node(bucket, "a", 1, FLUSHING).start()
        await a.open(5)
        await a.put(5, [("h1", 1, 1.0)])
        await a.until(lambda: a.info().sst_files == 1)
        await _spoil(a, 5, R)
        a.tell(order(nodes_pb2.STOP, 5, attempt=6))
        a.tell(order(nodes_pb2.RESUME, 7))
        await asyncio.sleep(1)
        assert a.state() == "read_only"
        refused = await a.scan(7)
        assert isinstance(refused, pb.RegionOutcome) and refused.outcome == pb.READ_ONLY, "its rows cannot be decoded"
        assert (await a.write(7, [("h1", 9, 9.0)])).outcome == pb.READ_ONLY
        await a.kill()

    simulate(main)
