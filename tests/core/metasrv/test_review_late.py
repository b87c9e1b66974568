"""Reports that would take a region off the books, or hand it over, if only their sender were asked."""

from groundwork.core.ids import Lane, region_id
from metasrv.core import commands as c
from metasrv.core.orders import order_for
from metasrv.core.records import Phase
from tests.core.metasrv.world import World, lane_of, three_nodes

REGION = region_id(1, 0)


def _refused(world: World, report: c.Report) -> str:
    before = world.machine.state.regions[REGION]
    [(_, reason)] = world.propose(c.Reports(items=(report,))).rejected
    assert world.machine.state.regions[REGION] == before
    return reason


def test_p1_only_a_region_that_is_dropped_goes_when_it_is_closed() -> None:
    """P1: its owner answers a CLOSE that was overtaken, under the very epoch that it has: the region stays."""
    world = three_nodes()
    region = world.machine.state.regions[REGION]
    me = (region.lane.node_id, region.lane.incarnation)
    assert region.phase is Phase.SERVING
    assert "not being dropped" in _refused(world, c.Closed(*me, REGION, region.epoch))
    for agent in world.agents.values():
        agent.obeys = False
    world.propose(c.DropTable(name="cpu"))
    epoch = world.machine.state.regions[REGION].epoch
    assert not world.propose(c.Failover(lanes=(region.lane,))).refused
    assert "is over" in _refused(world, c.Closed(*me, REGION, epoch))


def test_an_owner_is_stopped_only_when_the_target_of_this_attempt_has_caught_up() -> None:
    """A late report of an earlier attempt, and one of another node, do not stop the writes of a region."""
    world = three_nodes()
    owner = world.machine.state.regions[REGION].lane.node_id
    target, other = (n for n in world.agents if n != owner)
    for agent in world.agents.values():
        agent.obeys = False
    move = c.StartMigration(moves=(c.Placement(REGION, lane_of(world, target)),))
    first = world.propose(move).value
    world.propose(c.CancelMigration(attempt=first))
    second = world.propose(move).value
    to, beside = ((n, world.agents[n].incarnation) for n in (target, other))
    assert "has ended" in _refused(world, c.Prepared(*to, REGION, first))
    assert "is not the target" in _refused(world, c.Prepared(*beside, REGION, second))
    assert not world.propose(c.Reports(items=(c.Prepared(*to, REGION, second),))).rejected
    region = world.machine.state.regions[REGION]
    me = (owner, region.lane.incarnation)
    for lane, stay in ((region.lane, region.stay_epoch - 1), (lane_of(world, target), region.stay_epoch)):
        assert "is in stay" in _refused(world, c.Stopped(*me, REGION, region.epoch, second, lane, stay, 900))
    assert not world.propose(
        c.Reports(items=(c.Stopped(*me, REGION, region.epoch, second, region.lane, region.stay_epoch, 900),))
    ).rejected
    assert world.machine.state.regions[REGION].lane.node_id == target


def test_a_failover_to_a_datanode_that_has_fallen_silent_meanwhile_is_planned_again() -> None:
    """The target was up in the plan and is suspect at its commit: refused as a whole, and nothing was ended."""
    world = three_nodes()
    lane = world.machine.state.regions[REGION].lane
    target = next(n for n in world.agents if n != lane.node_id)
    world.propose(c.Suspect(node_id=target, incarnation=world.agents[target].incarnation, silent_ms=3_000))
    outcome = world.propose(c.Failover(lanes=(lane,), moves=(c.Move(lane, lane_of(world, target)),)))
    assert "is suspect by now" in outcome.refused
    assert not world.machine.state.is_over(lane)


def test_t9_a_drop_ends_the_move_of_its_region() -> None:
    """T9: nothing of the move is left when the region is gone: its deadline would meet a region that does not exist."""
    world = three_nodes()
    owner = world.machine.state.regions[REGION].lane.node_id
    target = next(n for n in world.agents if n != owner)
    world.agents[target].obeys = False
    assert not world.propose(c.StartMigration(moves=(c.Placement(REGION, lane_of(world, target)),))).refused
    assert not world.propose(c.DropTable(name="cpu")).refused
    assert not world.machine.state.migrations
    world.run(200_000)
    assert not world.machine.state.tables


def test_t20_an_open_stay_that_only_the_manifest_knows_is_ended_with_the_next_order() -> None:
    """T20: after a start from backup a claim meets a lane of an incarnation that the state never had."""
    world = three_nodes()
    world.agents[world.machine.state.regions[REGION].lane.node_id].obeys = False
    region = world.machine.state.regions[REGION]
    unknown = Lane("dn-9", 5, 0)
    failed = c.RegionFailed(
        region.lane.node_id, region.lane.incarnation, REGION, region.epoch, "lane_not_over", "open", False, unknown, 4
    )
    assert not world.propose(c.Reports(items=(failed,))).rejected
    world.run(5_000)
    state = world.machine.state
    assert state.regions[REGION].epoch > region.epoch
    assert unknown in order_for(state, region.lane.node_id, REGION).over


def test_an_accepted_loss_goes_along_where_the_owner_is_lost_before_it_serves() -> None:
    """An operator said it once: the next owner is told so too."""
    world = three_nodes()
    for agent in world.agents.values():
        agent.obeys = False
    region = world.machine.state.regions[REGION]
    me = (region.lane.node_id, region.lane.incarnation)
    damaged = c.RegionFailed(*me, REGION, region.epoch, "damaged", "1 damaged place", True)
    assert not world.propose(c.Reports(items=(damaged,))).rejected
    assert not world.propose(c.AcceptLoss(region_id=REGION, who="ops")).refused
    target = next(n for n in world.agents if n != region.lane.node_id)
    move = c.Move(region.lane, lane_of(world, target))
    assert not world.propose(c.Failover(lanes=(region.lane,), moves=(move,))).refused
    assert order_for(world.machine.state, target, REGION).accept_loss
