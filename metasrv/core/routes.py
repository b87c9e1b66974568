"""Where regions are: what the Routes service answers, and what changed. A table being dropped has no routes."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from groundwork.core.ids import partition_of, table_of
from groundwork.core.table import TableInfo
from metasrv.core.events import Outcome
from metasrv.core.records import Phase, Region
from metasrv.core.state import State


class Route(Struct, frozen=True):
    """metasrv.v1.Route. While LOST the node is the one that was lost: an absent owner is not "no owner" (T22)."""

    region_id: int
    table_id: int
    partition: int
    node_id: str
    incarnation: int
    address: str
    epoch: int
    phase: Phase
    locality: str


class RouteChanges(Struct, frozen=True):
    """What a watcher is told after one or more outcomes."""

    revision: int
    tables: tuple[TableInfo, ...]
    routes: tuple[Route, ...]
    dropped_table_ids: tuple[int, ...]


def route_of(state: State, region_id: int) -> Route | None:
    """The route of one region, None for one that is not or is being dropped."""
    region = state.regions.get(region_id)
    return None if region is None or region.phase is Phase.DROPPING else _route(state, region_id, region)


def _route(state: State, region_id: int, region: Region) -> Route:
    node = state.nodes.get(region.lane.node_id)
    lane = region.lane
    return Route(
        region_id, table_of(region_id), partition_of(region_id), lane.node_id, lane.incarnation,
        node.address if node else "", region.epoch, state.phase_of(region), node.locality if node else "",
    )  # fmt: skip


def routes_of(state: State, region_ids: Iterable[int]) -> list[Route]:
    """The routes of those regions that have one, in the order asked for."""
    return [route for r in region_ids if (route := route_of(state, r))]


def table_routes(state: State, table_id: int) -> list[Route]:
    """All routes of a table, in partition order."""
    table = state.tables.get(table_id)
    return routes_of(state, table.region_ids) if table and not table.dropping else []


def route_of_key(state: State, table_id: int, tags: Mapping[str, str]) -> Route | None:
    """The route of the one region that holds a key."""
    table = state.tables.get(table_id)
    return route_of(state, table.info().region_of(tags)) if table and not table.dropping else None


def live_tables(state: State) -> list[TableInfo]:
    """Every table that is not being dropped, by id."""
    return [t.info() for _, t in sorted(state.tables.items()) if not t.dropping]


def changes(state: State, outcomes: Iterable[Outcome]) -> RouteChanges:
    """What the outcomes changed, as the state says now (the last of them must be applied)."""
    regions: set[int] = set()
    tables: set[int] = set()
    for outcome in outcomes:
        regions.update(outcome.regions)
        tables.update(outcome.tables)
    live = [t.info() for i in sorted(tables) if (t := state.tables.get(i)) and not t.dropping]
    gone = tables - {t.table_id for t in live}
    return RouteChanges(state.revision, tuple(live), tuple(routes_of(state, sorted(regions))), tuple(sorted(gone)))
