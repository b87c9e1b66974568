"""Grants, silence, and the plan linter, one rule at a time."""

from groundwork.core.ids import Lane
from metasrv.core import commands as c
from metasrv.core.leases import Beat, Grant, Heard, LaneHealth, LeaseBook, Refusal
from metasrv.core.linter import check_failover, check_moves, check_table
from metasrv.core.records import Config
from metasrv.core.routes import changes
from tests.core.metasrv.world import World

REPLICAS = ("m1", "m2", "m3")


def _world() -> World:
    world = World(config=Config(settle_ms=10_000_000))
    world.add("dn-1", "site-1/zone-a", lanes=2, capacity=4)
    world.add("dn-2", "site-2/zone-a", lanes=2, capacity=4)
    world.run(600)
    world.create_table("cpu", 4)
    world.run(300)
    return world


def test_a_grant_names_the_orders_revision_and_the_lanes_that_are_not_over() -> None:
    """HOLES 12: a grant names the node's assignment revision, and only the lanes that are not over."""
    world = _world()
    state, agent = world.machine.state, world.agents["dn-1"]
    world.propose(c.Failover(lanes=(Lane("dn-1", agent.incarnation, 1),)))
    assert world.book.decide(state, agent.beat()) == Grant(3_000, state.nodes["dn-1"].orders_revision, (0,))
    assert state.nodes["dn-1"].orders_revision == state.revision


def test_refusals() -> None:
    """T2, T8: no grant to a suspect, to an incarnation that is over, to one that was never registered."""
    world = _world()
    state, agent = world.machine.state, world.agents["dn-1"]
    assert world.book.decide(state, Beat("dn-9", 1)) is Refusal.UNKNOWN_NODE
    assert world.book.decide(state, Beat("dn-1", agent.incarnation - 1)) is Refusal.SUPERSEDED
    world.propose(c.Suspect(node_id="dn-1", incarnation=agent.incarnation, silent_ms=3_000))
    assert world.book.decide(state, agent.beat()) is Refusal.SUSPECTED
    world.propose(c.Release(node_id="dn-1", incarnation=agent.incarnation))
    assert world.book.decide(state, agent.beat()) is Refusal.SUPERSEDED


def test_silence_of_a_new_leader() -> None:
    """T1, T2: from the last hearing where the leader before reports; else from the election, where that is later."""
    book = LeaseBook("m2", REPLICAS)
    book.led_by("m1")
    book.heard(Beat("dn-1", 7), 1_000.0)
    book.elected(5_000.0)
    assert book.silence_ms("dn-1", 7, 5_500.0) == 500.0
    book.reported("m3", [], 5_500.0)
    assert not book.may_judge(5_500.0, Config(), REPLICAS)
    book.reported("m1", [Heard("dn-1", 7, 2_500.0)], 5_500.0)
    assert book.may_judge(5_500.0, Config(), REPLICAS)
    assert book.silence_ms("dn-1", 7, 5_500.0) == 2_500.0
    assert book.silence_ms("dn-2", 8, 5_500.0) == 500.0, "never heard: from the election"


def test_a_registration_counts_as_hearing() -> None:
    """Who registers after a long reign is not silent since the election."""
    book = LeaseBook("m1")
    book.elected(0.0)
    book.registered("dn-1", 7, 60_000.0)
    assert book.silence_ms("dn-1", 7, 60_500.0) == 500.0 and book.was_heard("dn-1", 7, 60_500.0)
    book.heard(Beat("dn-1", 7, store_probe_age_ms=99_000), 61_000.0)
    book.registered("dn-1", 8, 62_000.0)
    assert book.silence_ms("dn-1", 8, 62_100.0) == 100.0
    book.registered("dn-1", 7, 70_000.0)
    assert book.silence_ms("dn-1", 8, 70_000.0) == 8_000.0, "an older incarnation says nothing of the newer"


def test_a_node_is_opening_until_its_lanes_are() -> None:
    """Registered is not ready: all lanes must be open, so that a grant lets them acknowledge."""
    world = _world()
    agent = world.agents["dn-1"]
    state, book = world.machine.state, world.book

    def opening() -> bool:
        return book.inventory(state, world.now_ms)["dn-1"].opening

    assert not opening()
    world.elect("metasrv-2")
    book = LeaseBook("metasrv-2")
    book.elected(world.now_ms)
    assert not opening(), "a leader that has no beat of it yet sees that it owns regions"
    book = world.book
    agent.register()
    assert opening(), "no beat of this incarnation yet"
    book.heard(Beat("dn-1", agent.incarnation, (LaneHealth(0, True, 0), LaneHealth(1, False, 0))), world.now_ms)
    assert opening(), "one of two"
    book.heard(agent.beat(), world.now_ms)
    assert not opening()


def test_a_leader_that_slept_gives_credit_once() -> None:
    """T3: silence before the sleep still counts; the sleep itself does not."""
    book = LeaseBook("m1")
    book.elected(0.0)
    for replica in REPLICAS[1:]:
        book.reported(replica, [], 0.0)
    book.tick(900.0, Config())
    book.heard(Beat("dn-1", 7), 400.0)
    assert book.tick(31_000.0, Config()) == 30_100.0
    assert book.silence_ms("dn-1", 7, 31_000.0) == 500.0
    assert book.tick(31_100.0, Config()) == 0.0


def test_the_linter_finds_every_broken_rule() -> None:
    """A plan that loses a region, uses it twice, overfills, or aims at an ended lane is told so."""
    world = _world()
    state = world.machine.state
    one, two = world.agents["dn-1"].incarnation, world.agents["dn-2"].incarnation
    ended = (c.Ended("dn-1", one, "operator"),)
    a, b = Lane("dn-1", one, 0), Lane("dn-1", one, 1)
    target = Lane("dn-2", two, 0)

    def faults(*moves: c.Move, unplaced: int = 0) -> str:
        return "; ".join(check_failover(state, c.Failover(ended=ended, moves=moves), unplaced))

    assert faults(c.Move(a, target), c.Move(b, target)) == ""
    assert "are lost" in faults(c.Move(a, target))
    assert "given away twice" in faults(c.Move(a, target), c.Move(a, target))
    assert "is over" in faults(c.Move(a, b), c.Move(b, target))
    assert "is not lost" in faults(c.Move(target, a))
    region = state.regions_of(a)[0]
    assert "2 times" in faults(c.Move(a, target, (region,)), c.Move(a, target, (region,)))
    assert "is not in lane" in faults(c.Move(b, target, (region,)))
    world.create_table("more", 4)
    assert "would own more than" in faults(c.Move(a, target), c.Move(b, target))


def test_the_linter_knows_voluntary_moves() -> None:
    """Moves of what does not serve, twice, to where it is, to a drained, ended or full datanode are told so."""
    world = _world()
    state = world.machine.state
    one, two = world.agents["dn-1"].incarnation, world.agents["dn-2"].incarnation
    a, b = Lane("dn-1", one, 0), Lane("dn-2", two, 0)
    first, second = sorted(state.regions_of(a))[0], sorted(state.regions_of(b))[0]

    def faults(*moves: tuple[int, Lane]) -> str:
        placements = tuple(c.Placement(region_id, lane) for region_id, lane in moves)
        return "; ".join(check_moves(state, c.StartMigration(moves=placements)))

    assert faults((first, b)) == ""
    assert "twice" in faults((first, b), (first, b))
    assert "already" in faults((second, b))
    assert "does not serve" in faults((7 << 32, b))
    assert "is not up" in faults((first, Lane("dn-9", two, 0)))
    world.create_table("more", 4)
    assert "would own more than" in faults((first, b))
    world.propose(c.StartMigration(moves=(c.Placement(second, a),)))
    assert "is being moved already" in faults((second, a))
    world.propose(c.Drain(node_id="dn-2"))
    assert "is being drained" in faults((first, b))
    world.propose(c.Failover(ended=(c.Ended("dn-2", two, "operator"),)))
    assert "is over" in faults((first, b))


def test_the_linter_knows_the_placement_of_a_table() -> None:
    """A partition without a lane, a lane of nobody, and more regions than a datanode may have are told so."""
    world = _world()
    state = world.machine.state
    lane = Lane("dn-2", world.agents["dn-2"].incarnation, 0)
    assert check_table(state, (lane,), (0, 0), 2) == []
    assert "partitions" in check_table(state, (lane,), (0, 1), 2)[0]
    assert "partitions" in check_table(state, (lane,), (0,), 2)[0]
    assert check_table(state, (Lane("dn-9", 1, 0),), (0,), 1)[-1].endswith("is not up")
    assert "would own more than" in check_table(state, (lane,), (0,) * 3, 3)[0]


def test_what_one_command_may_not_move_follows_at_once() -> None:
    """A failover above `failover_regions_max` is several commands without a pause between, also of one lane."""
    world = World(config=Config(settle_ms=10_000_000, failover_regions_max=3))
    world.add("dn-1", "site-1/zone-a", capacity=100)
    world.add("dn-2", "site-2/zone-a", capacity=100)
    world.run(600)
    world.create_table("cpu", 16)
    world.run(300)
    world.agents["dn-1"].running = False
    world.run(4_000)
    commands = [e for e in world.machine.state.audit if e.kind == "failover"]
    assert [e.fields["moved"] for e in commands] == ["3", "3", "2"]
    assert len({e.wall_ms for e in commands}) == 1, "no pause between them"
    assert world.all_serve()


def test_changes_since_add_up_to_the_routes() -> None:
    """A watcher that resumes gets what it missed, or is told that it must begin anew."""
    world = _world()
    machine, revision = world.machine, world.machine.state.revision
    assert machine.changes_since(revision) == []
    world.agents["dn-1"].running = False
    world.run(4_000)
    missed = machine.changes_since(revision)
    assert missed is not None
    told = changes(machine.state, missed)
    assert {r.region_id for r in told.routes} == {
        r for r, x in machine.state.regions.items() if x.epoch >= told.routes[0].epoch
    }
    assert all(r.node_id == "dn-2" for r in told.routes)
    assert machine.changes_since(revision + 10**6) is None
    machine.restore(list(machine.snapshot()))
    assert machine.changes_since(revision) is None
