"""P3 and P5 as far as metasrv decides them, in virtual time: from the crash to the committed failover."""

import pytest

from metasrv.core.records import Config
from tests.core.metasrv.world import STEP_MS, World

LEASE_MS, BEAT_MS, TICK_MS = 3_000, 500, 100
ELECTION_MS = 800


def _cluster(crash_phase_ms: int) -> World:
    world = World(config=Config(lease_ms=LEASE_MS, beat_ms=BEAT_MS, tick_ms=TICK_MS))
    for i in range(1, 5):
        world.add(f"dn-{i}", f"site-{i % 2 + 1}/zone-{i}", lanes=2)
        world.run(70)
    world.run(600)
    world.create_table("cpu", 100)
    world.run(1_000 + crash_phase_ms)
    return world


def _committed(world: World, since_ms: float) -> float:
    return next(at - since_ms for at, kind in world.times if kind == "Failover" and at > since_ms)


@pytest.mark.parametrize("phase_ms", range(0, BEAT_MS, 90))
def test_p3_a_silent_crash_is_failed_over_within_a_lease_and_a_tick(phase_ms: int) -> None:
    """P3: crash to committed failover <= one lease + one tick, whenever in the beat the crash happens."""
    world = _cluster(phase_ms)
    crashed = world.now_ms
    world.agents["dn-1"].running = False
    world.run(LEASE_MS + 1_000)
    assert _committed(world, crashed) <= LEASE_MS + TICK_MS + STEP_MS
    assert world.all_serve()


def test_p3_a_witnessed_crash_is_failed_over_within_a_tick() -> None:
    """P3: where the death was witnessed (or the node restarted) only the leader's next tick is waited for."""
    from metasrv.core.commands import Release

    world = _cluster(0)
    agent = world.agents["dn-1"]
    agent.running = False
    crashed = world.now_ms
    world.propose(Release(node_id="dn-1", incarnation=agent.incarnation, witness="systemd", wall_ms=world.wall))
    world.run(1_000)
    assert _committed(world, crashed) <= TICK_MS + STEP_MS
    assert world.all_serve()


@pytest.mark.parametrize("phase_ms", range(0, BEAT_MS, 180))
def test_p5_leader_and_datanode_together(phase_ms: int) -> None:
    """P5, T1: leader and datanode die together: a lease and a tick. The promised election is not even waited for."""
    world = _cluster(phase_ms)
    crashed = world.now_ms
    world.agents["dn-1"].running = False
    world.kill_leader()
    world.run(ELECTION_MS)
    world.elect("metasrv-2")
    world.run(LEASE_MS + 1_000)
    took = _committed(world, crashed)
    assert took <= LEASE_MS + TICK_MS + STEP_MS
    assert world.all_serve()


def test_p5_the_new_leader_uses_what_the_old_one_tells() -> None:
    """P5: when the old leader still answers, the lease is not waited for anew: silence goes on."""
    world = _cluster(0)
    crashed = world.now_ms
    world.agents["dn-1"].running = False
    world.run(2_000)
    world.elect("metasrv-2")
    world.run(LEASE_MS)
    assert _committed(world, crashed) <= LEASE_MS + TICK_MS + STEP_MS


def test_t2_leaders_faster_than_a_lease() -> None:
    """T2: leaders change three times a lease, for ever; the dead node is failed over within a lease and two beats."""
    world = _cluster(0)
    crashed = world.now_ms
    world.agents["dn-1"].running = False
    for turn in range(8):
        world.elect(world.replica_ids[turn % 3])
        world.run(LEASE_MS // 3)
    assert _committed(world, crashed) <= LEASE_MS + 2 * BEAT_MS


def test_t3_a_leader_that_slept_blames_nobody() -> None:
    """T3: stopped for 30 s and leader still when it wakes: no healthy node is suspected, then or later."""
    world = _cluster(0)
    world.asleep_until_ms = world.now_ms + 30_000
    world.run(40_000)
    assert not [k for _, k in world.times if k in ("Suspect", "Failover")]
