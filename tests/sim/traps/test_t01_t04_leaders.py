"""T1 to T4: what a leader that dies, changes, sleeps or wakes does to datanodes and their regions."""

import asyncio

from metasrv.core.commands import Note
from metasrv.core.records import NodeStatus
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

# P5: two elections (a vote may be split) and the two beats until a leader may judge that one replica did not report to.
# The datanode's lease runs meanwhile: it adds nothing.
LEADER_AND_NODE_S = 2 * ELECTION_S + 2 * BEAT_S + TICK_S + HAND_OFF_S
# T2: one lease and two beats, a tick, and P3's second, whoever leads.
CHANGING_LEADERS_S = DRIFT * (LEASE_S + 2 * BEAT_S) + TICK_S + HAND_OFF_S
ONE_NODE_S = DRIFT * LEASE_S + TICK_S + HAND_OFF_S  # P3
SLEEP_S = 30.0
FAR_S = LEASE_S / 2  # by the last beat before the sleep, and the next attempt to connect, it is heard within a lease


@told(datanodes=4)
async def test_t01_node_and_leader_die_together(stage: Stage) -> None:
    """T1: node and leader die together; the next leader never granted the node anything, and still fails it over."""
    leader, victim = stage.leader, stage.an_owner()
    orphans, keys = stage.regions_on(victim), stage.keys_on(victim)

    stage.power_off(leader, victim)

    await stage.writes_go_on(LEADER_AND_NODE_S, keys, "the leader and a datanode had died together")
    assert stage.leader is not leader
    assert stage.status(victim) is NodeStatus.LOST
    for region_id, before in orphans.items():
        assert stage.serves(region_id, but=[victim])
        assert stage.state.regions[region_id].epoch > before.epoch
    [suspected] = stage.events("suspect")
    assert suspected.node_ids == (victim.name,)
    assert "silent for" in suspected.sentence


@told(datanodes=4)
async def test_t02_leaders_change_faster_than_a_lease(stage: Stage) -> None:
    """T2: leaders change faster than a lease while a node is dead: it is still failed over."""
    victim = stage.an_owner()
    keys, died_s = stage.keys_on(victim), stage.loop.time()
    stage.power_off(victim)

    reigns_s = []
    while stage.status(victim) is not NodeStatus.LOST:
        began_s, before, successor = stage.loop.time(), stage.leader, stage.followers[0]
        await stage.asks(stage.operators.admin.transfer_leader(successor.name))
        await stage.elected(but=[before])
        await stage.passes(LEASE_S / 5)
        reigns_s.append(stage.loop.time() - began_s)
        assert stage.loop.time() - died_s <= CHANGING_LEADERS_S, "a dead node is forgotten by each new leader"

    assert len(reigns_s) >= 3
    assert max(reigns_s) < LEASE_S, "nobody led for as long as a lease"
    await stage.writes_go_on(died_s + CHANGING_LEADERS_S - stage.loop.time(), keys, "a datanode had died")


@told(datanodes=3)
async def test_t03_a_leader_that_slept_blames_nobody(stage: Stage) -> None:
    """T3: the leader is paused for 30 s: no healthy node is failed over on waking."""
    for (
        replica
    ) in stage.metasrvs:  # so that nobody else can be elected: all of metasrv was on one host that stood still
        stage.pause(replica)
        stage.cut(replica, *stage.datanodes)  # who sleeps accepts no connections: agents try again, and back off
    stage.clients.calm.clear()
    await stage.passes(SLEEP_S)
    stage.clients.calm.set()

    far = stage.an_owner()
    stage.mend_links()
    stage.cut(far, *stage.metasrvs)
    for replica in stage.metasrvs:  # nobody has heard anybody for 30 s, nor heard another leader
        stage.resume(replica)
    await stage.passes(FAR_S)  # one of them leads, and judges a healthy datanode that it has not heard yet
    stage.mend_links()
    await stage.elected()
    await stage.passes(LEASE_S + 2 * BEAT_S)
    assert stage.events("suspect", "failover", "breaker", "release") == []

    victim = stage.an_owner()
    stage.kill(victim)  # and one that really dies is failed over as ever
    await stage.writes_go_on(ONE_NODE_S, since="a datanode had died")


@told(datanodes=4)
async def test_t04_an_old_leader_wakes_and_acts(stage: Stage) -> None:
    """T4: an old leader wakes and acts: it takes itself for the leader, and can neither grant nor commit."""
    old, victim = stage.leader, stage.an_owner()
    keys, left_s = stage.keys_on(victim), []
    stage.trace.on_line["failover_decided"] = lambda: left_s.append(stage.lease_left_s(victim))
    stage.pause(old)
    for other in stage.followers_of(old):
        stage.cut(old, other)
        stage.cut(victim, other)  # it reaches the old leader only
    new = await stage.elected(but=[old])

    stage.resume(old)  # with the beats of the victim that have come meanwhile
    assert stage.leads(old), "it has not heard that it was deposed"
    woke = asyncio.ensure_future(stage.proposes(old, Note(kind="late", sentence="an old leader says so")))
    await stage.until(
        lambda: stage.status(victim) is NodeStatus.LOST, LEADER_AND_NODE_S, "the new leader fails it over"
    )
    assert left_s == [0.0], "a grant of the old leader's outlived the failover"
    await stage.writes_go_on(HAND_OFF_S, keys, "the datanode was failed over")
    assert stage.leader is new
    assert [e.node_ids for e in stage.events("suspect")] == [(victim.name,)]

    stage.mend_links()
    assert not await woke, "what the old leader proposed was answered as committed"
    await stage.until(lambda: stage.status(victim) is NodeStatus.UP, LEASE_S, "the datanode registers again")
    assert stage.events("late") == []
    assert all(len(who) == 1 for who in stage.leaders_named().values())
