"""T10 to T12: disks of metasrv's replicas that are full, or lose what was not synced, told on the whole cluster."""

import asyncio

from groundwork.sim.network import KEEPALIVE_S
from metasrv.core.commands import Note
from metasrv.core.records import NodeStatus
from tests.sim.hosts import RESTART_S, MetasrvHost
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

# The leader learns that its disk is full when it has something to write: that the datanode is suspected, a lease and a
# tick after it died. Then two elections (a vote may be split), the two beats until a leader judges to which one
# replica, full as it is, did not report, a tick, and P3's second.
FULL_LEADER_S = DRIFT * LEASE_S + TICK_S + 2 * ELECTION_S + 2 * BEAT_S + TICK_S + HAND_OFF_S
ELECTED_S = 2 * ELECTION_S
NOTES = 5
ALONE_S = LEASE_S


@told(datanodes=4)
async def test_t10_a_full_disk_on_the_leader(stage: Stage) -> None:
    """T10: full disk on the leader: it steps down, another decides, and it follows again once there is space."""
    leader, victim = stage.leader, stage.an_owner()
    keys = stage.keys_on(victim)
    stage.befalls("disk_full", leader)
    leader.disk.full = True
    stage.power_off(victim)  # something to decide, which the leader cannot write down
    await stage.writes_go_on(FULL_LEADER_S, keys, "the leader's disk was full and a datanode had died")
    assert stage.leader is not leader
    assert stage.status(victim) is NodeStatus.LOST
    assert stage.said("disk_full", by=leader)
    assert leader.starts == 1, "a full disk ends no process"

    leader.disk.full = False
    await stage.until(
        lambda: leader.service.machine.state.revision == stage.state.revision, ELECTED_S, "it has all that it missed"
    )
    assert all(len(who) == 1 for who in stage.leaders_named().values())


@told(datanodes=3)
async def test_t11_killed_between_vote_and_fsync(stage: Stage) -> None:
    """T11: kill between vote and fsync: a vote that may be forgotten has told nobody, and makes no leader."""
    leader = stage.leader
    survivors = stage.followers
    stage.power_off(leader)
    died: list[MetasrvHost] = []
    for voter in survivors:
        stage.loses_power_in_its_vote(voter, died)
    await stage.until(lambda: bool(died), ELECTED_S, "one of the two has voted for the other")
    [voter] = died
    [candidate] = [h for h in survivors if h is not voter]
    restarted_s = stage.loop.time() + RESTART_S / 2
    while stage.loop.time() < restarted_s:
        assert not stage.raft(candidate).core.leads, "it leads by a vote that was never durable"
        await stage.passes(0.01)

    await stage.until(lambda: voter.up, RESTART_S, "the voter is started again")
    # Nobody was told that its machine lost power: the links to it end with their keep-alives.
    await stage.elected(but=[leader], within_s=KEEPALIVE_S + ELECTED_S)
    leader.start()
    await stage.writes_go_on(LEASE_S + HAND_OFF_S, since="all replicas were up")
    assert all(len(who) == 1 for who in stage.leaders_named().values()), "one leader a term"


@told(datanodes=3)
async def test_t12_a_commit_index_ahead_of_the_journal(stage: Stage) -> None:
    """T12: commit index ahead of the journal: what a journal holds and no quorum said so of is applied by nobody."""
    old, others = stage.leader, stage.followers
    for other in others:
        stage.cut(old, other)
    late = [stage.proposes(old, Note(kind="late", sentence=f"note {n} that no quorum has")) for n in range(NOTES)]
    asked = asyncio.gather(*late)
    new = await stage.elected(but=[old])
    for n in range(NOTES):  # other commands at the same places of the log
        assert await stage.proposes(new, Note(kind="early", sentence=f"note {n}"))
    committed = stage.state.revision

    stage.power_off(*stage.metasrvs)
    stage.mend_links()
    old.start()
    await stage.passes(ALONE_S)
    assert stage.raft(old).journal.last_index > stage.raft(old).core.raftCommitIndex
    assert old.service.machine.state.revision <= committed - NOTES, "it applied what only its own journal has"
    for other in others:
        other.start()
    await stage.elected()
    await stage.until(lambda: old.service.machine.state.revision > committed, ELECTED_S, "it follows")
    assert stage.events("late") == []
    assert not asked.done() or not any(asked.result()), "who proposed them was told that they are committed"
    asked.cancel()
    assert len(stage.events("early")) == NOTES
    await stage.writes_go_on(LEASE_S + HAND_OFF_S, since="all replicas were up")
