"""T22: a route says where a region is, not whether its owner is well: what a frontend knows of it never goes away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from groundwork.core.errors import Unknown
from groundwork.core.route_cache import Phase
from groundwork.core.table import TableInfo
from metasrv.core.routes import route_of
from tests.sim.clients import COLUMNS
from tests.sim.frontends import FrontendHost
from tests.sim.traps.stage import DRIFT, HAND_OFF_S, LEASE_S, TICK_S, WAITED_FOR_S, Stage
from tests.sim.traps.told import told

DETECTION_S = DRIFT * LEASE_S + TICK_S + HAND_OFF_S  # P3
STALL_S = 3.0  # a watch that is silent for so long is given up
QUIET_S = 1.0  # and so often a replica says something


@asynccontextmanager
async def _looked_at(stage: Stage, *tables: TableInfo) -> AsyncIterator[set[Phase]]:
    """Meanwhile each frontend knows each region of these tables, and a node for it; the phases that were seen."""
    seen: set[Phase] = set()

    async def look() -> None:
        while True:
            for frontend in stage.frontends:
                for table in tables:
                    known = frontend.routes.table(table.name)
                    if known is None or known.table_id != table.table_id:
                        stage.fail(f"{frontend.name} does not know table {table.name} any more")
                    for region_id in table.region_ids:
                        route = frontend.routes.route(region_id)
                        if route is None or not route.node_id:
                            stage.fail(f"to {frontend.name} region {region_id:#x} is owned by nobody")
                        else:
                            seen.add(route.phase)
            await asyncio.sleep(WAITED_FOR_S)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.wait({looking})
        if not looking.cancelled():
            looking.result()


@told(datanodes=2)
async def test_t22_an_owner_that_is_away_is_still_the_owner(stage: Stage) -> None:
    """T22: a discovery filter must not mean "no owner": while a datanode is dead, its regions keep their routes.

    Nobody else is up and well, so that the regions stay lost for a while. Who reads meanwhile waits or is refused: an
    answer without the rows would be a wrong one.
    """
    table = stage.clients.table
    assert table is not None
    owner = stage.an_owner()
    [other] = [host for host in stage.datanodes if host is not owner]
    regions = stage.regions_on(owner)
    stage.befalls("store_hangs", other, silent_s=60.0)
    other.faults.hang = True  # it lives, and cannot open anything

    async with _looked_at(stage, table) as seen:
        stage.power_off(owner)
        reads = [asyncio.create_task(stage.reads(key)) for key in stage.keys_on(owner)]
        assert reads
        await stage.passes(DETECTION_S)
        for host in stage.metasrvs:
            state = host.service.machine.state
            assert all((route := route_of(state, r)) is not None and route.node_id for r in regions)
        stage.store_heals(other)
        await stage.until(lambda: all(stage.serves(r, but=[owner]) for r in regions), DETECTION_S, "the other serves")
        await stage.writes_go_on(HAND_OFF_S, since="the other served")
        answers = await asyncio.gather(*reads)
    assert {Phase.SERVING, Phase.OPENING} <= seen
    assert any(answers) or stage.said("read_undone")


async def _says_nothing(frontend: FrontendHost, name: str) -> None:
    """Only the leader may say that there is no such table: who cannot ask it says nothing."""
    try:
        answer = await frontend.ask(lambda: frontend.routes.refresh(name, deadline_ms=1_000))
    except Unknown:
        return
    raise AssertionError(f"a replica that lags answered: {answer}")


@told(keys=2)
async def test_t22_a_replica_that_lags_takes_nothing_away(stage: Stage) -> None:
    """T22: a replica that lags does not know a new table: a frontend that watches it keeps what it knows.

    An absent table or region in a snapshot of the past must not mean that there is none, or that nobody owns it.
    """
    behind = stage.followers[0]
    ahead = [host for host in stage.metasrvs if host is not behind]
    maker, other = stage.frontends
    stage.cut(maker, *ahead)
    stage.cut(other, behind)
    await stage.until(lambda: (maker.name, behind.name) in stage.fabric.links(), 2 * STALL_S, "the maker watches it")
    await stage.passes(2 * STALL_S)

    stage.cut(behind, *ahead, *stage.datanodes)
    for host in ahead:
        stage.fabric.unblock(maker.name, host.name)
        stage.fabric.unblock(host.name, maker.name)
    table = await maker.ask(
        lambda: maker.routes.create_table(
            "mem", COLUMNS, partition_columns=("key",), partitions=3, request_id="mem", deadline_ms=5_000
        )
    )
    assert "mem" not in behind.service.machine.state.names
    assert await other.ask(lambda: other.routes.refresh("mem")) == table

    # Both hear nobody else now: the one that lags is at the revision that the maker has seen, and behind the other's.
    async with _looked_at(stage, table):
        stage.fabric.unblock(other.name, behind.name)
        stage.fabric.unblock(behind.name, other.name)
        for host in stage.frontends:
            stage.cut(host, *ahead)
        stage.fabric.break_some(1.0)
        await stage.passes(2 * STALL_S + QUIET_S)
        assert (maker.name, behind.name) in stage.fabric.links()
        assert "mem" not in behind.service.machine.state.names
        await _says_nothing(maker, "mem")
        await stage.writes_go_on(HAND_OFF_S, since="the frontends heard the replica that lags only")
        stage.mend_links()
        await stage.until(lambda: "mem" in behind.service.machine.state.names, 2 * LEASE_S, "it has caught up")
        await stage.writes_go_on(HAND_OFF_S, since="all links were mended")
