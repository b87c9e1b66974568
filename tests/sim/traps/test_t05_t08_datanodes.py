"""T5 to T8: datanodes whose store, log or past fails them while their network lives."""

from metasrv.core.records import NodeStatus
from tests.sim.hosts import POLICY, RESTART_S
from tests.sim.traps.stage import (
    BEAT_S,
    DRIFT,
    ELECTION_S,
    HAND_OFF_S,
    LANES,
    LEASE_S,
    NO_LANES,
    TICK_S,
    Stage,
    StagedDatanode,
)
from tests.sim.traps.told import told

# A node that is heard and does no work: its proof of work grows too old, a beat says so, and it is judged.
UNWELL_S = DRIFT * (POLICY.unwell_ms / 1000 + BEAT_S) + TICK_S + HAND_OFF_S
LEADER_S = 2 * ELECTION_S + HAND_OFF_S  # a vote may be split
RESTARTED_S = RESTART_S + HAND_OFF_S  # P5's cheapest case: it supersedes itself, and no lease is waited for
PROOF_MS = 400  # as in production, proof of work comes several times within what is waited for
ANSWERED_S = 1.0  # what a refused or hanging call may take in these stories


async def _is_condemned(stage: Stage, victim: StagedDatanode, why: str) -> None:
    """It is failed over for its own proof of work, alone, while it is heard all the time; and takes part again."""
    since, incarnation = stage.state.revision, stage.state.nodes[victim.name].incarnation
    keys, orphans = stage.keys_on(victim), stage.regions_on(victim)

    def failed_over() -> bool:
        return any(e.kind == "failover" and e.revision > since for e in stage.events())

    await stage.until(failed_over, UNWELL_S - HAND_OFF_S, f"{victim.name} is condemned")
    await stage.writes_go_on(HAND_OFF_S, keys, f"{victim.name} was failed over")
    [failover] = [e for e in stage.events("failover") if e.revision > since]
    assert f"{victim.name} is unwell: {why}" in failover.sentence
    assert all(stage.serves(region_id, but=[victim]) for region_id in orphans)
    assert stage.events("suspect") == [], "it was heard all the time"
    assert stage.state.nodes[victim.name].incarnation >= incarnation


@told(datanodes=4, proof_ms=PROOF_MS)
async def test_t05_a_disk_hangs_and_the_network_lives(stage: Stage) -> None:
    """T5: disk hangs, network lives: of a datanode, which is judged by its work; of the leader, whom others succeed."""
    victim = stage.an_owner()
    stage.befalls("store_hangs", victim)
    victim.faults.hang = True
    await _is_condemned(stage, victim, "")
    stage.store_heals(victim)
    await stage.until(
        lambda: stage.status(victim) is NodeStatus.UP, LEASE_S, "it registers again once its disk answers"
    )

    leader = stage.leader
    stage.befalls("disk_hangs", leader)
    leader.disk.hang_s = LEASE_S + LEADER_S
    other = stage.an_owner(but=[victim])
    stage.kill(other)  # the leader that hangs in its sync cannot be the one who fails it over
    await stage.writes_go_on(LEADER_S + DRIFT * LEASE_S, since="the leader's disk hung and a datanode died")
    assert stage.leader is not leader


@told(datanodes=4, proof_ms=PROOF_MS)
async def test_t06_the_store_fails_for_one_node_only(stage: Stage) -> None:
    """T6: object store fails for one node only: that one is failed over, and nobody else blamed."""
    victim = stage.an_owner()
    stage.befalls("store_unreachable", victim)
    victim.faults.unreachable = True
    await _is_condemned(stage, victim, "")
    others = [h for h in stage.datanodes if h is not victim]
    assert all(stage.status(h) is NodeStatus.UP for h in others)
    assert stage.regions_on(victim) == {}

    stage.store_heals(victim)
    await stage.until(lambda: bool(stage.regions_on(victim)), 20.0, "it is given regions again once it has settled")


@told(datanodes=5, proof_ms=PROOF_MS)
async def test_t07_log_without_store_and_store_without_log(stage: Stage) -> None:
    """T7: log reachable and store not, and the inverse: each condemns its node; for all nodes, nothing is moved."""
    first = stage.an_owner()
    stage.befalls("store_unreachable", first)
    first.away = NO_LANES
    await _is_condemned(stage, first, "its last good object-store probe is")

    second = stage.an_owner(but=[first])
    stage.befalls("log_unreachable", second)
    second.away = LANES
    await _is_condemned(stage, second, "no append on any lane became durable")

    first.away = second.away = ()
    up = [h for h in stage.datanodes if h not in (first, second)]
    owners = {region_id: region.lane for region_id, region in stage.state.regions.items()}
    moved = len(stage.events("failover"))
    for host in up:
        stage.befalls("log_unreachable", host)
        host.away = LANES
    await stage.until(lambda: bool(stage.events("not_failed_over")), UNWELL_S, "what they share is down")
    await stage.passes(LEASE_S)
    assert "what they share is down, so nothing is moved" in stage.events("not_failed_over")[0].sentence
    assert len(stage.events("failover")) == moved
    assert {region_id: region.lane for region_id, region in stage.state.regions.items()} == owners
    for host in up:
        host.away = ()
    await stage.writes_go_on(HAND_OFF_S + ANSWERED_S, since="the log was back")


@told(datanodes=3)
async def test_t08_a_node_restarts_inside_the_grace(stage: Stage) -> None:
    """T8: node restarts inside the grace and opens old regions before its first lease: it opens none by itself."""
    victim = stage.an_owner()
    before, keys = stage.regions_on(victim), stage.keys_on(victim)
    left_s: list[float] = []
    stage.trace.on_line["engine_started"] = lambda: left_s.append(stage.lease_left_s(victim))
    stage.kill(victim, again=True)
    await stage.writes_go_on(RESTARTED_S, keys, "a datanode was killed and started again")
    assert left_s == [0.0], "a new incarnation has no lease before its first grant"
    assert all(stage.state.regions[r].epoch > region.epoch for r, region in before.items())
    assert stage.events("suspect") == []

    # The same where it cannot ask anybody: users still write to it, by the old routes, within its old lease.
    await stage.passes(LEASE_S)
    victim = stage.an_owner()
    keys, orphans = stage.keys_on(victim), stage.regions_on(victim)
    stage.cut(victim, *stage.metasrvs)
    stage.kill(victim, again=True)
    acked = stage.acked_by(victim)
    await stage.passes(RESTART_S + (LEASE_S - RESTART_S) / 2)
    assert victim.up
    await stage.writes_go_on(DRIFT * LEASE_S + TICK_S + HAND_OFF_S, keys, "a datanode restarted cut off")
    assert stage.acked_by(victim) == acked, "it acknowledged without an order"
    assert all(stage.serves(region_id, but=[victim]) for region_id in orphans)
