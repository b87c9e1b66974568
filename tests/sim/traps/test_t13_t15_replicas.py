"""T13 to T15: what a replica believes of itself and of its peers comes from its configuration only."""

from tests.sim.hosts import RESTART_S, MetasrvHost
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

COMMANDS = 70  # more than a journal holds before a snapshot is taken (60 on the stage)
BACK_OFF_S = 0.5  # what agents and frontends wait at most before they dial a replica again
# Until every key takes a write once all replicas have started together: two elections (a vote may be split), the beat
# by which a datanode asks again, the round that grants it, and what had backed off meanwhile.
COLD_S = 2 * ELECTION_S + 2 * BEAT_S + BACK_OFF_S + HAND_OFF_S


async def _snapshots(stage: Stage) -> None:
    """Operators are busy until every replica has a snapshot on its disk."""
    for number in range(COMMANDS):
        await stage.asks(stage.operators.admin.pause(f"node/dn-{1 + number % 3}", 1, "busy", request_id=f"p-{number}"))
    await stage.until(lambda: all(_snapshot(h) for h in stage.metasrvs), 5.0, "every replica took a snapshot")


def _snapshot(host: MetasrvHost) -> bool:
    return (host.raft_folder / "snapshot").exists()


def _agree(stage: Stage) -> bool:
    """Whether every replica is up and has applied what the newest has."""
    return all(h.up and h.service.machine.state.revision == stage.state.revision for h in stage.metasrvs)


async def _a_change_is_taken(stage: Stage) -> None:
    """Whoever leads has a majority that acknowledges."""
    await stage.asks(stage.operators.admin.pause("cluster", 1, "a change is taken", deadline_ms=COLD_S * 1000))


def _term(host: MetasrvHost) -> int:
    return host.service.consensus.leadership().term


def _nobody_moved(stage: Stage) -> None:
    """No datanode was blamed for what happened to metasrv."""
    assert stage.events("suspect", "failover", "register") == []


@told(keys=2)
async def test_t13_snapshot_and_configuration_disagree(stage: Stage) -> None:
    """T13: snapshot and configuration disagree on where the replicas are; the configuration is believed.

    Behind a snapshot each replica comes back at the address that another one had: whoever went by what was true when
    the snapshot was taken would speak to the wrong one.
    """
    await _snapshots(stage)
    before = stage.state.revision
    addresses = [host.address for host in stage.metasrvs]

    stage.power_off(*stage.metasrvs)
    for host, address in zip(stage.metasrvs, addresses[1:] + addresses[:1], strict=True):
        host.at = address
        host.start()
    await stage.passes(TICK_S)

    await stage.elected()
    await _a_change_is_taken(stage)
    assert stage.state.revision > before
    # Each pair of them finds each other, not just the pair that elected this leader.
    for gone in list(stage.metasrvs):
        await stage.until(lambda: _agree(stage), COLD_S, "all replicas have applied the same")
        stage.power_off(gone)
        await stage.elected(but=[gone])
        await _a_change_is_taken(stage)
        gone.start()
    await stage.writes_go_on(COLD_S, since="each replica had been missing once")
    _nobody_moved(stage)


@told(keys=2)
async def test_t14_the_address_of_a_peer_changes(stage: Stage) -> None:
    """T14: a peer's address changes; replicas are told one by one, nobody is failed over, and it leads from there.

    Between the restarts the replicas' configurations differ: the others send to the old address, where nobody listens
    any more, and hear from the new one somebody who hears no leader. Datanodes and frontends are never told: they reach
    the replica that moved through the two others.
    """
    leader, (moved, other) = stage.leader, stage.followers

    moved.at = f"{moved.name}:5001"
    stage.kill(moved, again=True)
    await stage.passes(RESTART_S + 3 * ELECTION_S)
    assert stage.leader is leader, "one that is sent nothing, and says so, deposes nobody"
    for host in (other, leader):
        stage.kill(host, again=True)
        await stage.passes(RESTART_S)
        await stage.elected()
        await stage.writes_go_on(COLD_S, since=f"{host.name} had been told")
    await stage.until(lambda: _agree(stage), COLD_S, "the replica that moved has caught up")

    await stage.asks(stage.operators.admin.transfer_leader(moved.name))
    await stage.until(lambda: stage.leads(moved), 2 * ELECTION_S, f"{moved.name} leads from its new address")
    await stage.passes(DRIFT * LEASE_S + BEAT_S)
    assert stage.leads(moved), "a leader that only the other replicas reach goes on"
    await stage.writes_go_on(HAND_OFF_S, since=f"{moved.name} led")
    _nobody_moved(stage)


@told(keys=2)
async def test_t15_a_replica_lists_itself(stage: Stage) -> None:
    """T15: a replica lists itself as a peer; it is not dialled by itself and counts once, neither twice nor never."""
    assert all(host.name in host.service.config.peers for host in stage.metasrvs)
    pairs = {(a, b) for a, b in stage.fabric.links() if a.startswith("metasrv") and b.startswith("metasrv")}
    assert {a for a, _ in pairs} == {host.name for host in stage.metasrvs}
    assert all(a != b for a, b in pairs)

    # Two of three go on: whoever counted itself never, or as one more, would need the third.
    leader, (first, second) = stage.leader, stage.followers
    stage.power_off(first)
    await stage.passes(2 * LEASE_S)
    await _a_change_is_taken(stage)
    await stage.writes_go_on(HAND_OFF_S, since="one replica was gone")
    assert stage.leader is leader

    # One of three does not: whoever counted itself twice would.
    stage.power_off(second)
    await stage.until(lambda: not stage.leads(leader), 2 * ELECTION_S, "the last one steps down")
    revision, term = stage.state.revision, _term(leader)
    acked_s = stage.loop.time() + DRIFT * LEASE_S  # what it had granted runs out
    await stage.passes(DRIFT * LEASE_S)
    writes = stage.clients.history.writes
    await stage.passes(3 * ELECTION_S)
    assert (stage.state.revision, _term(leader)) == (revision, term), "nothing is decided by one"
    assert stage.clients.history.writes == writes, f"nothing is acknowledged after {acked_s:.1f} s"

    first.start()
    await stage.writes_go_on(COLD_S, since="two replicas were there again")
    second.start()
    _nobody_moved(stage)
