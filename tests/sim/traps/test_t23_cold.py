"""T23: everything restarts at once, cold: what was acknowledged is there, and nobody is blamed."""

from groundwork.core.table import TableInfo
from tests.sim.clients import COLUMNS
from tests.sim.hosts import MetasrvHost
from tests.sim.traps.stage import BEAT_S, ELECTION_S, HAND_OFF_S, LEASE_S, TICK_S, Stage
from tests.sim.traps.told import told

ROUNDS = 5
BACK_OFF_S = 0.5  # what agents and frontends wait at most before they dial a replica again
# Until every key takes writes once all replicas have started together: two elections (a vote may be split), the beat by
# which a datanode asks again, and what had backed off meanwhile.
COLD_S = 2 * ELECTION_S + 2 * BEAT_S + BACK_OFF_S + HAND_OFF_S


async def _create(stage: Stage, name: str) -> TableInfo:
    """A user creates a table, and is told so."""
    frontend = stage.frontends[0]

    async def create() -> TableInfo:
        return await frontend.routes.create_table(name, COLUMNS, request_id=name, deadline_ms=COLD_S * 1000)

    return await frontend.ask(create)


def _incarnations(stage: Stage) -> dict[str, int]:
    return {name: node.incarnation for name, node in stage.state.nodes.items()}


@told(keys=2)
async def test_t23_all_replicas_restart_at_once(stage: Stage) -> None:
    """T23: all replicas restart at once, again and again; what was acknowledged is there, and no datanode is blamed.

    They lose power. Metasrv forgets whom it heard, and not one datanode is failed over for it.
    """
    incarnations, made = _incarnations(stage), list[TableInfo]()
    for number in range(ROUNDS):
        made.append(await _create(stage, f"t{number}"))
        token = stage.state.next_token
        stage.power_off(*stage.metasrvs)
        for host in stage.metasrvs:
            host.start()
        await stage.passes(TICK_S)
        await stage.elected()
        assert [stage.state.names.get(table.name) for table in made] == [table.table_id for table in made]
        assert stage.state.next_token >= token
    await stage.writes_go_on(COLD_S, since="all replicas had restarted")
    await stage.passes(LEASE_S)
    assert stage.events("suspect", "failover", "register") == []
    assert _incarnations(stage) == incarnations


@told()
async def test_t23_everything_restarts_at_once(stage: Stage) -> None:
    """T23: all replicas restart at once, with all datanodes and frontends; every region is back where it was.

    A restarted datanode's regions are failed over to itself as soon as it registers: no lease is waited for.
    """
    before = dict(stage.state.regions.items())
    machines = [*stage.metasrvs, *stage.datanodes, *stage.frontends]

    stage.power_off(*machines)
    for host in machines:
        host.start()
    await stage.passes(TICK_S)

    await stage.writes_go_on(COLD_S + HAND_OFF_S, since="everything had restarted")
    state = stage.state
    for region_id, region in before.items():
        now = state.regions[region_id]
        assert now.lane.node_id == region.lane.node_id
        assert now.epoch > region.epoch
        assert now.lane.incarnation > region.lane.incarnation
    assert stage.events("suspect") == []
    assert all(_knows_the_same(stage, host) for host in stage.metasrvs)


def _knows_the_same(stage: Stage, host: MetasrvHost) -> bool:
    return dict(host.service.machine.state.nodes) == dict(stage.state.nodes)
