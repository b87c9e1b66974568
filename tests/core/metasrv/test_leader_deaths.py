"""A leader's death at each step: whatever it was about to do, the next one carries on, and all regions serve again."""

from collections.abc import Callable

import pytest

from metasrv.core import commands as c
from metasrv.core.events import Outcome
from metasrv.core.planner import plan_drain, plan_migration
from metasrv.core.records import Config
from tests.core.metasrv.world import World

QUIET = Config(settle_ms=10_000_000, moves_max=2)
CALM_MS = 12_000


def _cluster() -> World:
    world = World(config=QUIET)
    for i in range(1, 5):
        world.add(f"dn-{i}", f"site-{i % 2 + 1}/zone-a", lanes=2)
    world.run(600)
    world.create_table("cpu", 8)
    world.run(300)
    assert world.all_serve()
    return world


def _failover(world: World) -> None:
    world.agents["dn-1"].running = False


def _restart(world: World) -> None:
    world.agents["dn-1"].register()


def _migration(world: World) -> None:
    state = world.machine.state
    regions = [r for r, _ in sorted(state.regions.items())][:3]
    plan = plan_migration(state, world.book.inventory(state, world.now_ms), regions, who="ops", wall_ms=world.wall)
    assert plan.command is not None
    world.propose(plan.command)


def _drain(world: World) -> None:
    state = world.machine.state
    plan = plan_drain(state, world.book.inventory(state, world.now_ms), "dn-1", "ops", world.wall)
    assert plan.command is not None
    world.propose(plan.command)


def _drop(world: World) -> None:
    world.create_table("other", 4)
    world.run(100)
    world.propose(c.DropTable(name="other", who="ops", wall_ms=world.wall))
    world.agents["dn-2"].running = False


STORIES = (_failover, _restart, _migration, _drain, _drop)


def _died_at(step: int, story: Callable[[World], None]) -> tuple[World, int]:
    """Run the story; the leader dies at its n-th step (0: never), another leads 300 ms later.

    A step is the moment just before a decision is carried out, or just after a command was applied.
    """
    world = _cluster()
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == step and world.leader:
            world.kill_leader()

    story(world)
    world.before_decision = world.after_command = count
    for _ in range(CALM_MS // 300):
        world.run(300)
        if not world.leader:
            heir = next(r for r in world.replica_ids if r not in world.deaf)
            world.deaf.clear()  # the dead one restarts, empty, and follows
            world.elect(heir)
    return world, seen


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.__name__.strip("_"))
def test_a_leaders_death_at_each_step(story: Callable[[World], None]) -> None:
    """T1, T4: for every step of the story there is a run in which the leader dies there; all converge."""
    _, steps = _died_at(0, story)
    assert steps > 0
    for at in range(1, steps + 1):
        world, seen = _died_at(at, story)
        assert seen >= at
        lost = [n for n in ("dn-1", "dn-2") if not world.agents[n].running]
        assert world.all_serve(), f"{story.__name__}, leader dead at step {at}: {world.machine.state.phases()}"
        assert not world.machine.state.migrations
        assert all(world.machine.state.node_region_count(n) == 0 for n in lost)
        if story is _drain:
            assert world.machine.state.node_region_count("dn-1") == 0
        if story is _drop:
            assert world.machine.state.table_named("other") is None and "other" not in world.machine.state.names


def test_a_lost_proposal_is_made_again() -> None:
    """A proposal may fail with an unknown outcome while the same leader goes on leading: the next step repeats it."""
    world = _cluster()
    real = world.propose
    lost: list[type] = []

    def unreliable(command: c.AnyCommand) -> Outcome:
        if isinstance(command, c.Suspect | c.Failover) and lost.count(type(command)) < 3:
            lost.append(type(command))
            return Outcome(world.revision, "lost", refused="the outcome is not known")
        return real(command)

    world.propose = unreliable  # type: ignore[method-assign]
    world.agents["dn-1"].running = False
    world.run(6_000)
    assert lost.count(c.Failover) == 3
    assert world.all_serve()
