"""Many datanodes lost together: what is said about them must never be why they are not failed over."""

from collections.abc import Callable

import pytest

from groundwork.core.errors import BadInput
from groundwork.core.ids import Lane
from metasrv.core import commands as c
from metasrv.core.apply.ownership import LANES_KEPT
from metasrv.core.events import SAID_MAX, listed
from metasrv.core.orders import TrimOrder, trim_orders_of
from metasrv.core.procedures import TRIM_LANES_MAX
from metasrv.core.records import TEXT_CHARS_MAX, Config, NodeStatus
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


def test_a_region_goes_to_another_lane_of_a_full_datanode() -> None:
    """Its place in the lane that ends was counted as taken: with nowhere else to go it was stuck for ever."""
    world = World()
    agent = world.add("dn-1", "site-1/zone-a", lanes=2, capacity=2)
    world.run(600)
    world.create_table("cpu", 2)
    world.run(300)
    state = world.machine.state
    [(region_id, region)] = [(r, x) for r, x in state.regions.items() if x.lane.index == 0]
    out = c.RegionFailed("dn-1", agent.incarnation, region_id, region.epoch, "lane_over", "its writer is out")
    assert not world.propose(c.Reports(items=(out,))).rejected
    world.run(1_000)
    assert state.regions[region_id].lane == Lane("dn-1", agent.incarnation, 1)
    assert world.all_serve()


def test_regions_are_opened_again_in_commands_of_a_bounded_size() -> None:
    """However many failed, one apply stalls nobody for long (0008), and each gets its turn."""
    world = World(config=Config(failover_regions_max=2))
    agent = world.add("dn-1", "site-1/zone-a")
    world.run(600)
    world.create_table("cpu", 5)
    world.run(300)
    state = world.machine.state
    failed = [c.RegionFailed("dn-1", agent.incarnation, r, x.epoch, "fenced") for r, x in state.regions.items()]
    assert not world.propose(c.Reports(items=tuple(failed))).rejected
    first = len(world.log)
    world.run(3_000)
    again = [e.region_ids for e in world.log[first:] if e.kind == "reopen"]
    assert max(map(len, again)) == 2
    assert len({r for regions in again for r in regions}) == 5
    assert world.all_serve()


def test_a_datanode_that_starts_over_and_over_leaves_no_more_lanes_than_are_kept() -> None:
    """Lanes were forgotten with a trim only, and an incarnation that wrote nothing leaves nothing to be trimmed."""
    world = World()
    agent = world.add("dn-1", "site-1/zone-a", lanes=4)
    for _ in range(LANES_KEPT // 4 + 50):
        agent.register()
    state = world.machine.state
    assert len(state.lanes) <= LANES_KEPT + 4
    assert len(state.open_lanes("dn-1")) == 4


def test_among_many_open_lanes_a_finished_one_is_not_forgotten_before_it_was_trimmed() -> None:
    """Open lanes counted among those that are kept: where they were many, a last trim ended with nobody told of it."""
    world = World()
    for n in range(LANES_KEPT // 64 + 1):
        world.add(f"dn-{n:02d}", "site-1/zone-a", lanes=64)
    world.run(600)
    world.create_table("cpu", 1)
    world.run(300)
    state = world.machine.state
    [(region_id, region)] = state.regions.items()
    lane, first = region.lane, region.stay_epoch
    world.agents[lane.node_id].register()
    world.run(1_000)
    assert world.all_serve()
    owner = state.regions[region_id]
    stays = (c.CoveredStay(lane, first, 101, done=True), c.CoveredStay(owner.lane, owner.stay_epoch, 0))
    covered = c.Covered(owner.lane.node_id, owner.lane.incarnation, region_id, owner.epoch, 2, stays)
    assert not world.propose(c.Reports(items=(covered,))).rejected
    outcome = world.propose(c.Trim(points=(c.TrimPoint(lane, 101),)))
    assert outcome.trims == (lane.node_id,)
    assert TrimOrder(lane, 101) in trim_orders_of(state, lane.node_id)


def test_every_busy_lane_has_its_turn_to_be_trimmed() -> None:
    """The first few were looked at each time: while they were written to, those behind them kept all objects."""
    world = World()
    for name in ("dn-1", "dn-2"):
        world.add(name, "site-1/zone-a", lanes=TRIM_LANES_MAX)
    world.run(600)
    world.create_table("cpu", 2 * TRIM_LANES_MAX)
    world.run(300)
    state = world.machine.state
    for covered in (100, 200, 300, 400):
        reports = tuple(
            c.Covered(r.lane.node_id, r.lane.incarnation, region_id, r.epoch, covered,
                      (c.CoveredStay(r.lane, r.stay_epoch, covered),))
            for region_id, r in sorted(state.regions.items())
        )  # fmt: skip
        assert not world.propose(c.Reports(items=reports)).rejected
        world.run(state.config.trim_every_ms)
    assert len(state.lanes) == 2 * TRIM_LANES_MAX
    assert all(record.trim >= 200 for record in state.lanes.values())


def test_a_pause_that_expires_is_told_whatever_command_ends_it() -> None:
    """A refused command had ended it unseen, and the leader's own, made for that, was always refused."""
    world = World()
    world.add("dn-1", "site-1/zone-a")
    world.run(600)
    for ms, command in (
        (1, c.Resume(scope="cluster", who="its expiry", wall_ms=world.wall + 2)),
        (3, c.DropTable(name="none", wall_ms=world.wall + 5)),
    ):
        world.propose(c.Pause(scope="cluster", expires_wall_ms=world.wall + ms + 1, wall_ms=world.wall + ms))
        outcome = world.propose(command)
        assert "expired" in outcome.events[0].sentence
        assert not world.machine.state.pauses
    world.propose(c.Pause(scope="cluster", expires_wall_ms=world.wall + 500, wall_ms=world.wall))
    world.run(1_000)
    assert world.log[-1].kind == "resume"
    assert not any(o.refused for o in world.outcomes if o.kind == "Resume")
