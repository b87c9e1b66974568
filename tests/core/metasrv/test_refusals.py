"""Commands and reports that come too late: each is judged by its own token, and changes nothing."""

from groundwork.core.ids import region_id
from metasrv.core import commands as c
from tests.core.metasrv.world import World, lane_of, three_nodes

REGION = region_id(1, 0)


def _move(world: World, to: str) -> None:
    moves = (c.Placement(REGION, lane_of(world, to)),)
    assert not world.propose(c.StartMigration(moves=moves)).refused
    world.run(300)
    assert world.machine.state.regions[REGION].lane.node_id == to


def _report(world: World, report: c.Report) -> str:
    outcome = world.propose(c.Reports(items=(report,)))
    return outcome.rejected[0][1] if outcome.rejected else ""


def _covered(world: World, manifest_epoch: int, *stays: c.CoveredStay) -> str:
    return _report(world, c.Covered("dn-1", world.agents["dn-1"].incarnation, REGION, manifest_epoch, 9, stays))


def _stays(world: World) -> list[tuple[str, int]]:
    return [(s.lane.node_id, s.covered) for s in world.machine.state.regions[REGION].stays]


def test_a_node_that_was_cleared_is_not_failed_over() -> None:
    """A plan made while it was suspect meets Clear in the log: refused as a whole, its lanes stay open."""
    world = three_nodes()
    incarnation = world.agents["dn-1"].incarnation
    outcome = world.propose(c.Failover(ended=(c.Ended("dn-1", incarnation),)))
    assert "was cleared" in outcome.refused
    assert not world.machine.state.is_over(lane_of(world, "dn-1"))


def test_hole14_a_plan_for_an_older_incarnation_ends_no_newer_one() -> None:
    """HOLES 14: the node restarted between the plan and its commit: the new incarnation's lanes stay open."""
    world = three_nodes()
    before = world.agents["dn-1"].incarnation
    world.agents["dn-1"].register()
    incarnation = world.agents["dn-1"].incarnation
    world.propose(c.Suspect(node_id="dn-1", incarnation=incarnation, silent_ms=3_000))
    outcome = world.propose(c.Failover(ended=(c.Ended("dn-1", before),)))
    assert "by now" in outcome.refused
    assert not world.machine.state.is_over(lane_of(world, "dn-1"))


def test_t9_a_region_has_one_procedure() -> None:
    """T9: while a region is being moved, a second move of it is refused and the first goes on."""
    world = three_nodes()
    world.agents["dn-2"].obeys = False
    first = world.propose(c.StartMigration(moves=(c.Placement(REGION, lane_of(world, "dn-2")),)))
    second = world.propose(c.StartMigration(moves=(c.Placement(REGION, lane_of(world, "dn-3")),)))
    assert "being moved already" in second.refused
    assert world.machine.state.migrations[REGION].attempt == first.value


def test_t4_a_report_under_an_older_epoch_counts_for_nothing() -> None:
    """T4, HOLES 7: after a cancel the owner is at a new epoch; that it served, or failed, under the old one is late."""
    world = three_nodes()
    old = world.machine.state.regions[REGION].epoch
    agent = world.agents["dn-1"]
    world.agents["dn-2"].obeys = agent.obeys = False
    attempt = world.propose(c.StartMigration(moves=(c.Placement(REGION, lane_of(world, "dn-2")),))).value
    assert not _report(world, c.Prepared("dn-2", world.agents["dn-2"].incarnation, REGION, attempt))
    world.propose(c.CancelMigration(attempt=attempt))
    assert world.machine.state.regions[REGION].epoch > old
    before = world.machine.state.regions[REGION]
    assert _report(world, c.Serving("dn-1", agent.incarnation, REGION, old))
    assert _report(world, c.RegionFailed("dn-1", agent.incarnation, REGION, old, "fenced"))
    assert world.machine.state.regions[REGION] == before


def test_a_late_report_of_a_former_stay_covers_no_later_stay_in_the_same_lane() -> None:
    """HOLES, second pass 6: keyed by lane alone, what the first stay covered would let the second's entries be cut."""
    world = three_nodes()
    first = world.machine.state.regions[REGION].stay_epoch
    _move(world, "dn-2")
    _move(world, "dn-1")
    assert _stays(world) == [("dn-1", 0), ("dn-2", 0), ("dn-1", 0)]
    assert not _covered(world, first, c.CoveredStay(lane_of(world, "dn-1"), first, 100))
    assert _stays(world) == [("dn-1", 100), ("dn-2", 0), ("dn-1", 0)]
    assert world.machine.state.trim_limit(lane_of(world, "dn-1")) == 0


def test_an_older_manifest_says_nothing_about_later_stays() -> None:
    """HOLES, second pass 6: a manifest that does not name a stay lets go of it only where its epoch is not below it."""
    world = three_nodes()
    first = world.machine.state.regions[REGION].stay_epoch
    _move(world, "dn-2")
    _move(world, "dn-3")
    assert not _covered(world, first)
    assert _stays(world) == [("dn-2", 0), ("dn-3", 0)]


def test_a_lane_that_nobody_needs_is_trimmed_up_to_a_reported_end_only() -> None:
    """HOLES, second pass 7: without a stay the bound is an end that was read no later than the index."""
    world = three_nodes()
    first = world.machine.state.regions[REGION].stay_epoch
    lane = lane_of(world, "dn-1")
    _move(world, "dn-2")
    newest = world.machine.state.regions[REGION].epoch
    assert not _covered(world, newest, c.CoveredStay(lane, first, 101, done=True))
    assert world.machine.state.trim_limit(lane) == 101
    assert world.propose(c.Trim(points=(c.TrimPoint(lane, 102),))).rejected
    assert not world.propose(c.Trim(points=(c.TrimPoint(lane, 101),))).rejected


def test_hole17_a_lane_that_is_over_takes_no_region_again() -> None:
    """HOLES 17: a plan whose target lane was ended meanwhile is refused as a whole, however well its node is."""
    world = three_nodes()
    source, target = lane_of(world, "dn-1"), lane_of(world, "dn-2")
    world.agents["dn-2"].register()
    assert world.machine.state.is_over(target)
    outcome = world.propose(c.Failover(lanes=(source,), moves=(c.Move(source, target),)))
    assert "is over" in outcome.refused
    assert not world.machine.state.is_over(source)


def test_hole6_a_region_leaves_no_lane_that_is_not_over() -> None:
    """HOLES 6: a failover moves regions of lanes that it ends, or that are over, and of no other."""
    world = three_nodes()
    before = world.machine.state.regions[REGION]
    outcome = world.propose(c.Failover(moves=(c.Move(before.lane, lane_of(world, "dn-2")),)))
    assert "is not over" in outcome.refused
    assert world.machine.state.regions[REGION] == before
