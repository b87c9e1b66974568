"""T1 to T3: what a leader that dies, changes or sleeps does to the failover of datanodes."""

from metasrv.core.records import NodeStatus
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

# P5: two elections (a vote may be split) and the two beats until a leader may judge that one replica did not report to.
# The datanode's lease runs meanwhile: it adds nothing.
LEADER_AND_NODE_S = 2 * ELECTION_S + 2 * BEAT_S + TICK_S + HAND_OFF_S


@told(datanodes=4)
async def test_t01_node_and_leader_die_together(stage: Stage) -> None:
    """T1: node and leader die together; the next leader never heard the node, and fails it over all the same."""
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
    assert DRIFT * LEASE_S < LEADER_AND_NODE_S
