"""Many datanodes lost together: what is said about them must never be why they are not failed over."""

from collections.abc import Callable

import pytest

from groundwork.core.errors import BadInput
from groundwork.core.ids import Lane
from metasrv.core import commands as c
from metasrv.core.events import SAID_MAX, listed
from metasrv.core.records import TEXT_CHARS_MAX, NodeStatus
from tests.core.metasrv.world import World


def test_t18_a_site_of_many_datanodes_is_failed_over() -> None:
    """The sentence named each of them and each target: from twenty on it was too long for a command, for ever."""
    world = World()
    lost = [f"site-1-datanode-{n:03d}" for n in range(40)]
    for name in (*lost, *(f"site-2-datanode-{n:03d}" for n in range(40))):
        world.add(name, f"{name[:6]}/zone-a")
    world.run(600)
    world.create_table("cpu", 80)
    world.run(300)
    for name in lost:
        world.agents[name].running = False
    world.run(5_000)
    assert all(world.machine.state.nodes[name].status is NodeStatus.LOST for name in lost)
    assert world.all_serve()
    [told] = [e for e in world.log if e.kind == "failover"]
    assert set(lost) <= set(told.node_ids), "the audit trail still finds it by each of them"
    assert f"and {40 - SAID_MAX} more" in told.sentence


def test_a_sentence_that_is_too_long_is_cut() -> None:
    """Whoever makes a command makes its sentence; no length of it may stop the command."""
    for command in (c.Note(kind="x", sentence="long " * 1_000), c.Failover(sentence="long " * 1_000)):
        read = c.decode(c.encode(command))
        assert isinstance(read, c.Note | c.Failover)
        assert len(read.sentence) == TEXT_CHARS_MAX
        assert read.sentence.endswith("...")
    with pytest.raises(BadInput):
        c.decode(c.encode(c.Pause(scope="cluster", reason="long " * 1_000, expires_wall_ms=1)))


def test_a_list_says_how_many_more() -> None:
    """People read the first few."""
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(n) for n in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def test_regions_that_wait_are_given_to_a_datanode_that_is_heard_at_last() -> None:
    """It was known and unheard when nothing else had room: its first beat changed no figure that was looked at."""
    world = World()
    world.add("dn-1", "site-1/zone-a")
    world.run(600)
    world.create_table("cpu", 2)
    world.run(300)
    world.agents["dn-1"].running = False
    world.run(2_500)
    late = world.add("dn-2", "site-1/zone-b")  # its leader goes before its first beat
    late.running = False
    world.kill_leader()
    world.deaf.clear()
    world.elect("metasrv-2")
    world.run(900)
    assert world.log[-1].kind == "not_failed_over"
    late.running = True
    world.run(1_000)
    assert world.all_serve()


def _lost_with_coverage_to_come() -> tuple[World, Lane, Callable[[int, bool], None]]:
    """dn-1 is failed over to dn-2; what to call for a report that dn-1's lane is covered up to a position."""
    world = World()
    world.add("dn-1", "site-1/zone-a")
    world.add("dn-2", "site-1/zone-b")
    world.run(600)
    world.create_table("cpu", 1)
    world.run(300)
    state = world.machine.state
    [(region_id, region)] = list(state.regions.items())
    lane = region.lane
    world.agents[lane.node_id].running = False
    world.run(5_000)
    region = state.regions[region_id]
    new = world.agents[region.lane.node_id]
    assert new.node_id != lane.node_id

    def covered(position: int, done: bool) -> None:
        stays = (
            c.CoveredStay(lane, region.stays[0].epoch, position, done),
            c.CoveredStay(region.lane, region.epoch, 0),
        )
        report = c.Covered(new.node_id, new.incarnation, region_id, region.epoch, position, stays)
        assert not world.propose(c.Reports(items=(report,))).rejected

    return world, lane, covered


def _trims(world: World) -> list[c.AnyCommand]:
    world.now_ms += 6_000
    for agent in world.agents.values():
        if agent.running:
            world.deliver(agent)
    found = world.procedures.step(world.now_ms, world.wall, world.machine.state, world.book)
    return [d.command for d in found if isinstance(d.command, c.Trim)]


def test_a_lane_is_trimmed_to_its_end_when_its_last_report_meets_a_trim_under_way() -> None:
    """The point computed before the report counted as computed after it: the rest stayed in the store for ever."""
    world, lane, covered = _lost_with_coverage_to_come()
    covered(10, False)
    [under_way] = _trims(world)
    covered(20, True)
    world.propose(under_way)
    for command in _trims(world):
        world.propose(command)
    assert world.machine.state.lanes[lane].trim == 20
    assert not _trims(world), "once there is nothing left to trim nothing is proposed"


def test_a_trim_whose_proposal_got_lost_is_made_again() -> None:
    """Nothing but another change of the lane, or another leader, made it again."""
    world, lane, covered = _lost_with_coverage_to_come()
    covered(20, True)
    assert _trims(world)
    [again] = _trims(world)
    world.propose(again)
    assert world.machine.state.lanes[lane].trim == 20
