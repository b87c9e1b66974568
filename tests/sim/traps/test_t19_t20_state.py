"""T19, T20: what the replicated state alone knows, and what it must not forget when it begins again."""

import shutil

import msgspec

from groundwork.adapters import generations
from groundwork.adapters.admin_client import AdminClient
from groundwork.adapters.replica_calls import ReplicaCalls
from groundwork.core.errors import ForeignCluster
from groundwork.core.ids import first_token, generation_of
from groundwork.core.table import TableInfo
from metasrv.core import commands
from metasrv.core.events import Outcome
from metasrv.core.records import NodeStatus
from tests.sim.clients import COLUMNS
from tests.sim.hosts import CLUSTER, DatanodeHost, MetasrvHost
from tests.sim.traps.stage import BEAT_S, DRIFT, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

DETECTION_S = DRIFT * LEASE_S + TICK_S + HAND_OFF_S  # P3
BACK_OFF_S = 5.0  # what an agent waits at most before it registers again
OTHER = "f0" * 16


async def _create(stage: Stage, name: str, partitions: int) -> TableInfo:
    """A user creates a table."""
    frontend = stage.frontends[0]

    async def create() -> TableInfo:
        return await frontend.routes.create_table(
            name, COLUMNS, partition_columns=("key",), partitions=partitions, request_id=name
        )

    return await frontend.ask(create)


@told()
async def test_t19_region_created_and_its_node_dies(stage: Stage) -> None:
    """T19: a region is created and its node dies before its first report; it is failed over as any other.

    The node never heard of it: it dies as the command is applied, before its orders can arrive.
    """
    leader, victims = stage.leader, list[DatanodeHost]()

    def applied(revision: int, outcome: Outcome) -> None:
        if outcome.kind == "CreateTable" and not victims:
            victims.append(stage.node(leader.service.machine.state.regions[outcome.regions[0]].lane.node_id))
            stage.later(0.0, stage.power_off, victims[0])

    leader.service.machine.subscribe(applied)
    table = await _create(stage, "mem", partitions=3)
    [victim] = victims
    orphans = {r for r in table.region_ids if r in stage.regions_on(victim)}
    assert orphans
    assert not victim.up
    assert not any(stage.serves(r) for r in orphans)

    await stage.until(
        lambda: all(stage.serves(r, but=[victim]) for r in orphans), DETECTION_S, "the new region has another owner"
    )
    assert not any(orphans & set(e.region_ids) for e in stage.events("serving") if victim.name in e.node_ids)
    [failover] = stage.events("failover")
    assert failover.sentence.startswith(f"{victim.name} ")
    assert stage.status(victim) is NodeStatus.LOST
    assert all(stage.serves(r) for r in table.region_ids)
    await stage.writes_go_on(HAND_OFF_S, since="the new region had another owner")


@told()
async def test_t20_restore_from_a_backup(stage: Stage) -> None:
    """T20: metasrv is restored from a backup; tokens and ids only go forward, and no acknowledged write is lost.

    Since the backup a datanode restarted and owns its regions in lanes that the restored state never heard of, and a
    table was made under an id that it would give again. Datanodes and users are let in once generation 2 has begun.
    """
    copies = {host: stage.folder / "backup" / host.name for host in stage.metasrvs}
    for host, copy in copies.items():
        shutil.copytree(host.raft_folder, copy)
    then = stage.state.revision

    restarted = stage.an_owner()
    stage.kill(restarted, again=True)
    await stage.writes_go_on(DETECTION_S, since="a datanode had restarted")
    lost = await _create(stage, "mem", partitions=3)
    await stage.until(lambda: all(stage.serves(r) for r in lost.region_ids), HAND_OFF_S, "the new table serves")
    token, table_id = stage.state.next_token, lost.table_id

    stage.power_off(*stage.metasrvs)
    everybody = [*stage.datanodes, *stage.frontends]
    for host in stage.metasrvs:
        stage.cut(host, *everybody)
        shutil.rmtree(host.raft_folder)
        shutil.copytree(copies[host], host.raft_folder)
    stage.checks.restored(then)
    for host in stage.metasrvs:
        host.start()
    await stage.passes(TICK_S)
    await _begin_again(stage, 2)
    stage.mend_links()

    # Every incarnation is over, since nobody knows what it did after the backup; all register again by themselves.
    within_s = LEASE_S + BEAT_S + BACK_OFF_S + 2 * HAND_OFF_S
    await stage.until(lambda: _all_in_generation(stage, 2), within_s, "every region serves in generation 2")
    await stage.writes_go_on(HAND_OFF_S, since="every region served in generation 2")
    state = stage.state
    assert state.next_token > first_token(2) > token
    # The table that was made after the backup is gone from the catalog, and its id is never used again: what it left
    # in the store would turn up in another table.
    assert "mem" not in state.names
    other = await _create(stage, "mem", partitions=3)
    assert other.table_id > table_id
    await stage.until(lambda: all(stage.serves(r) for r in other.region_ids), HAND_OFF_S, "a table can be made again")


def _all_in_generation(stage: Stage, generation: int) -> bool:
    """Whether every datanode is up, and every region serves, under a token of that generation."""
    state = stage.state
    regions = dict(state.regions.items())
    tokens = [*(n.incarnation for n in state.nodes.values()), *(r.epoch for r in regions.values())]
    return all(generation_of(t) == generation for t in tokens) and all(stage.serves(r) for r in regions)


async def _begin_again(stage: Stage, generation: int) -> None:
    """What a start from backup does: take the generation in the store, then have it committed."""
    leader = await stage.elected(within_s=2 * ELECTION_S + TICK_S)
    marker = generations.Marker(generations.FORMAT, generations.VERSION, CLUSTER, generation)
    assert stage.bucket.put(generations.key_of(generation), msgspec.json.encode(marker))
    begin = commands.Bootstrap(cluster_id=CLUSTER, generation=generation, config=stage.state.config)
    assert leader.process is not None
    await leader.process.spawn(leader.service.consensus.propose(commands.encode(begin)))
    assert stage.state.generation == generation


@told()
async def test_t20_a_foreign_cluster_id_is_refused(stage: Stage) -> None:
    """T20: a foreign cluster id is refused: a datanode's, a replica's and a tool's, each with the reason."""
    strangers = [DatanodeHost(stage, "dn-9", 9), MetasrvHost(stage, "metasrv-9", 9)]
    nodes = dict(stage.state.nodes)
    for host in strangers:
        host.cluster, host.may_refuse = OTHER, True
        host.start()
        host.wanted = False  # its service manager gives up
        stage.befalls("foreign", host)
    await stage.passes(HAND_OFF_S)
    for host in strangers:
        assert len(host.ends) == 1
        assert host.ends[0].startswith("ForeignCluster: cluster_id: "), host.ends
        assert CLUSTER in host.ends[0]
        assert not host.up

    calls = ReplicaCalls([h.address for h in stage.metasrvs], OTHER, None, stage.operators.admin.calls.clock)
    try:
        await stage.asks(AdminClient(calls, "a stranger").pause("cluster", 60_000, "not ours"))
        raise AssertionError("a change for another cluster was accepted")
    except ForeignCluster as error:
        assert CLUSTER in str(error)
    assert stage.state.nodes == nodes
    assert not stage.state.pauses
    await stage.writes_go_on(HAND_OFF_S, since="strangers had come")
    assert stage.events("register", "pause", "suspect", "failover") == []
