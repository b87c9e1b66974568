"""T16 to T18: who is given regions and who is not: nodes that were slow, nodes that are, the rest of a lost site."""

from metasrv.core.procedures import MOVE_AGAIN_MS
from tests.sim.hosts import POLICY, DatanodeHost
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

SETTLE_S = (POLICY.settle_ms or 0) / 1000
UNWELL_S = (POLICY.unwell_ms or 0) / 1000
# Where several are slow: as patient as the default, so that the second is half-way to unwell, as its last beat says,
# when the first one is.
PATIENT_MS = 6_000
APART_S = 1.0  # between the first that becomes slow and the last: more than a beat
SLOW_MS = (2_500.0, 3_000.0)  # each way: an append or a probe takes longer than a datanode may take
CALLS_S = 4 * SLOW_MS[1] / 1000  # what a slow node has asked of the store, one after the other, is still on its way


def _seen_slow_s(unwell_s: float, times: float = 1.0) -> float:
    """Until it is seen what a slow node no longer does.

    The answer that was on its way when it became slow, the age that condemns it, the beat that says so, and a tick.
    """
    return times * SLOW_MS[1] / 1000 + DRIFT * (unwell_s + BEAT_S) + TICK_S


MOVE_S = 0.5  # one region's move, and a tick until the next is decided
DETECTION_S = DRIFT * LEASE_S + TICK_S + HAND_OFF_S  # P3


def _slow(stage: Stage, host: DatanodeHost, times: float = 1.0) -> None:
    """The store answers it slowly from now on: it works, and too slowly."""
    stage.befalls("store_slow", host, silent_s=60.0)
    host.faults.latency_ms = (times * SLOW_MS[0], times * SLOW_MS[1])


def _given(stage: Stage, host: DatanodeHost) -> set[int]:
    """What it owns, and what is on its way to it."""
    coming = {r for r, m in stage.state.migrations.items() if m.target.node_id == host.name}
    return set(stage.regions_on(host)) | coming


async def _alike(stage: Stage) -> int:
    """Each datanode has as many regions as any other; how many."""
    share = stage.regions // len(stage.datanodes)
    await stage.until(
        lambda: not stage.state.migrations and all(len(stage.regions_on(h)) == share for h in stage.datanodes),
        SETTLE_S + BEAT_S + stage.regions * MOVE_S + MOVE_AGAIN_MS / 1000, "each has its share",
    )  # fmt: skip
    return share


@told(regions=6, keys=2)
async def test_t16_a_slow_node_recovers(stage: Stage) -> None:
    """T16: a slow node recovers; it is given its share back, neither at once nor never."""
    share = await _alike(stage)
    victim, moved = stage.an_owner(), len(stage.events("migration"))

    _slow(stage, victim)
    await stage.until(lambda: not stage.regions_on(victim), _seen_slow_s(UNWELL_S), "the slow node is given up")
    [lost] = stage.events("failover")
    assert "is unwell" in lost.sentence
    await stage.writes_go_on(HAND_OFF_S, since="the slow node was given up")

    # It is well, and slow again before it has settled: it still has nothing, and has to settle anew.
    stage.store_heals(victim)
    await stage.passes(SETTLE_S - UNWELL_S / 2 - BEAT_S - 2 * TICK_S)
    assert not _given(stage, victim), "not at once"
    victim.faults.hang = True
    await stage.passes(_seen_slow_s(UNWELL_S))
    assert not _given(stage, victim)

    stage.store_heals(victim)
    well_s = stage.loop.time()
    await stage.until(
        lambda: bool(_given(stage, victim)), CALLS_S + SETTLE_S + BEAT_S + TICK_S, "it is given something"
    )
    assert stage.loop.time() - well_s >= SETTLE_S / DRIFT, "not at once, after the second time either"
    await stage.until(
        lambda: len(stage.regions_on(victim)) == share, share * MOVE_S, "it has its share again, to the last region"
    )
    moves = len(stage.events("migration"))
    await stage.passes(SETTLE_S)
    assert len(stage.events("migration")) == moves, "and then nothing moves any more"
    assert len(stage.events("failover")) == 1
    assert moves > moved


@told(datanodes=5, regions=10, keys=4, proof_ms=500, unwell_ms=PATIENT_MS)
async def test_t17_several_slow_nodes(stage: Stage) -> None:
    """T17: several nodes are slow; none of them is given what another had, to be lost again a moment later."""
    first, second = stage.datanodes[:2]

    # One after the other: when the first is given up, the second looks well for another moment.
    _slow(stage, first, 3.0)
    await stage.passes(APART_S)
    _slow(stage, second, 3.0)
    await stage.until(
        lambda: not (stage.regions_on(first) or stage.regions_on(second)),
        _seen_slow_s(PATIENT_MS / 1000, 3.0),
        "both are given up",
    )
    both = stage.events("failover")
    assert [e.sentence.split(" is unwell")[0] for e in both] == [first.name, second.name]
    for failover in both:
        to = failover.sentence.rpartition(" to ")[2]
        assert not any(host.name in to for host in (first, second)), f"given to a slow node: {failover.sentence}"
    await stage.writes_go_on(HAND_OFF_S, since="both slow nodes were given up")


@told(datanodes=5, regions=10, keys=4, proof_ms=500, unwell_ms=PATIENT_MS)
async def test_t17_most_nodes_are_slow(stage: Stage) -> None:
    """T17: most nodes are slow; what they share must be slow, so nothing moves, and they are not judged one by one.

    They do not come to be unwell at one instant: when the first one is, the others are still short of it.
    """
    slow = stage.datanodes[:3]
    before = {r: region.lane for r, region in stage.state.regions.items()}
    for host in slow:
        stage.befalls("store_hangs", host, silent_s=60.0)
        host.faults.hang = True
        await stage.passes(APART_S / 2)

    await stage.until(
        lambda: bool(stage.events("not_failed_over")),
        _seen_slow_s(PATIENT_MS / 1000),
        "it is said that nothing is moved",
    )
    await stage.passes(PATIENT_MS / 1000)
    assert stage.events("not_failed_over")[0].sentence.startswith(
        "3 of 5 datanodes are unwell at once, or soon will be"
    )
    assert stage.events("failover", "migration") == []
    assert {r: region.lane for r, region in stage.state.regions.items()} == before
    stage.store_heals(*slow)
    await stage.writes_go_on(HAND_OFF_S, since="the store answered again")


@told(datanodes=(2, 2, 3, 3), regions=12, keys=6, capacity=5)
async def test_t18_a_site_vanishes(stage: Stage) -> None:
    """T18: a site vanishes; the last one is not stampeded: it takes what it stated room for, and the rest waits."""
    await _alike(stage)
    lost, left = stage.datanodes[:2], stage.datanodes[2:]
    with_them = stage.metasrvs[1]
    leads_on = stage.leader is not with_them

    stage.power_off(with_them, *lost)

    bound_s = DETECTION_S if leads_on else DETECTION_S + 2 * ELECTION_S
    await stage.until(lambda: bool(stage.events("not_failed_over")), bound_s, "what has no room is said to wait")
    # One command, or one for each as its lease ends, within a beat: no wave after wave.
    failovers = stage.events("failover")
    assert all(any(f"{h.name} (site-2/zone-a) silent" in e.sentence for e in failovers) for h in lost)
    assert failovers[-1].wall_ms - failovers[0].wall_ms <= BEAT_S * 1000
    assert len(failovers) <= len(lost)
    [waits] = stage.events("not_failed_over")
    assert "2 regions waiting" in waits.sentence
    assert "no room left" in waits.sentence
    assert sorted(len(stage.regions_on(h)) for h in left) == [5, 5], "as much as they stated, and alike"
    placed = [key for host in left for key in stage.keys_on(host)]
    await stage.writes_go_on(HAND_OFF_S, placed, since="the site's regions had new owners")
    await stage.passes(2 * LEASE_S)
    assert sorted(len(stage.regions_on(h)) for h in left) == [5, 5]
    assert stage.events("failover") == failovers

    # One node of the site returns: it is given what waits, at once; the others keep theirs.
    lost[0].start()
    await stage.writes_go_on(HAND_OFF_S + BEAT_S, since="a node of the site had returned")
    assert len(stage.regions_on(lost[0])) >= 2
    assert all(len(stage.regions_on(h)) <= h.capacity_regions for h in stage.datanodes)
