"""T21: one-way partitions: who is still heard and hears nothing, and who hears everything and is not heard."""

from groundwork.sim.network import KEEPALIVE_S
from metasrv.core.records import NodeStatus
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

DETECTION_S = DRIFT * LEASE_S + TICK_S + HAND_OFF_S  # P3
LONG_S = DRIFT * LEASE_S + KEEPALIVE_S  # the connections that are cut one way break meanwhile, and leases would run out


@told(keys=2)
async def test_t21_one_way_between_a_node_and_the_leader(stage: Stage) -> None:
    """T21: one-way partitions between a datanode and the leader: followers pass beats and grants on, nobody notices."""
    leader, owner = stage.leader, stage.an_owner()

    stage.cut(leader, owner, both=False)  # its beats arrive, the answers do not
    await stage.passes(LONG_S)
    stage.mend_links()
    await stage.passes(BEAT_S)
    stage.cut(owner, leader, both=False)  # and the other way round
    await stage.passes(LONG_S)

    assert stage.said("lease_lost") == []
    assert stage.events("suspect", "failover", "register") == []
    assert stage.leader is leader
    await stage.writes_go_on(HAND_OFF_S, stage.keys_on(owner), since="a link was cut one way")


@told(keys=2)
async def test_t21_a_node_that_is_not_heard(stage: Stage) -> None:
    """T21: one-way partition: a datanode hears all of metasrv and is not heard; its lease ends, and others serve."""
    owner = stage.an_owner()
    keys, regions, incarnation = (
        stage.keys_on(owner),
        stage.regions_on(owner),
        stage.state.nodes[owner.name].incarnation,
    )

    stage.cut(owner, *stage.metasrvs, both=False)
    await stage.until(lambda: all(stage.serves(r, but=[owner]) for r in regions), DETECTION_S, "others serve")
    assert stage.status(owner) is NodeStatus.LOST
    [suspected] = stage.events("suspect")
    assert suspected.node_ids == (owner.name,)
    await stage.writes_go_on(HAND_OFF_S, keys, since="its regions had other owners")
    assert len(stage.said("lease_lost", owner)) == 1, "it knows by itself that it may serve no more"

    stage.mend_links()
    await stage.until(lambda: stage.status(owner) is NodeStatus.UP, KEEPALIVE_S + HAND_OFF_S, "it registers again")
    assert stage.state.nodes[owner.name].incarnation > incarnation


@told(keys=2)
async def test_t21_a_node_that_hears_nothing(stage: Stage) -> None:
    """T21: one-way partition: a datanode is heard and hears nothing; it serves until its lease ends, then others do.

    While its beats arrive nobody may take its regions; once its connections are given up it is silent.
    """
    owner = stage.an_owner()
    keys, regions = stage.keys_on(owner), stage.regions_on(owner)
    began_s = stage.loop.time()

    for replica in stage.metasrvs:
        stage.cut(replica, owner, both=False)
    await stage.until(lambda: bool(stage.said("lease_lost", owner)), DRIFT * LEASE_S + TICK_S, "its lease ends")
    await stage.until(
        lambda: all(stage.serves(r, but=[owner]) for r in regions), KEEPALIVE_S + DETECTION_S, "others serve"
    )
    assert stage.loop.time() - began_s > LEASE_S
    await stage.writes_go_on(HAND_OFF_S, keys, since="its regions had other owners")
    assert stage.status(owner) is NodeStatus.LOST


@told(keys=2)
async def test_t21_one_way_between_replicas(stage: Stage) -> None:
    """T21: one-way partitions between replicas: a leader that is heard and hears nobody makes room for another."""
    deaf = stage.leader

    for follower in stage.followers:
        stage.cut(follower, deaf, both=False)
    # It notices within two of its own rounds; then an election, which may be split.
    leader = await stage.elected(but=[deaf], within_s=KEEPALIVE_S + 2 * ELECTION_S)
    await stage.until(lambda: not stage.leads(deaf), 2 * ELECTION_S, "the deaf one leads no more")
    await stage.passes(DRIFT * LEASE_S)
    assert stage.leader is leader
    assert stage.events("suspect", "failover") == [], "no datanode is blamed for it"
    await stage.writes_go_on(HAND_OFF_S, since="another replica led")

    # The other way round: it is not heard, and hears that it is not the leader any more.
    stage.mend_links()
    await stage.passes(ELECTION_S)
    mute = stage.leader
    for follower in stage.followers:
        stage.cut(mute, follower, both=False)
    await stage.elected(but=[mute])
    await stage.until(lambda: not stage.leads(mute), 2 * ELECTION_S, "the mute one leads no more")
    await stage.writes_go_on(2 * ELECTION_S + HAND_OFF_S, since="another replica led")
    assert stage.events("suspect", "failover") == []
