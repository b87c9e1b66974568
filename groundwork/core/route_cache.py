"""What a client remembers of tables and routes. Pure: answers of metasrv go in, lookups and news come out.

Two answers about one region are ordered by (epoch, revision): epochs only grow, so an answer of a replica that lags
never replaces a newer one. A snapshot of a replica that lags behind what is held replaces nothing: it is merged.
"""

import enum
from collections.abc import Iterable

import msgspec

from groundwork.core.table import TableInfo
from groundwork.core.wire import table_from_wire
from protos.metasrv.v1 import routes_pb2, types_pb2

GONE_MAX = 1_000


class Phase(enum.IntEnum):
    """Of a region, as its route shows it. Values are those of the wire (metasrv.v1.Phase)."""

    UNSPECIFIED = 0
    OPENING = 1
    SERVING = 2
    STOPPING = 3
    LOST = 4


_PHASES = frozenset(int(phase) for phase in Phase)


class Route(msgspec.Struct, frozen=True):
    """Where a region is. `node_id` is empty while it has no owner (phase LOST): wait for a newer epoch."""

    region_id: int
    table_id: int
    partition: int
    node_id: str
    incarnation: int
    address: str
    epoch: int
    phase: Phase
    locality: str

    @property
    def owned(self) -> bool:
        """Whether there is an owner to ask. It may still be opening the region: requests wait there."""
        return bool(self.node_id) and self.phase is not Phase.LOST


def route_from_wire(route: types_pb2.Route) -> Route:
    """A route from the wire."""
    return Route(
        route.region_id,
        route.table_id,
        route.partition,
        route.node_id,
        route.incarnation,
        route.address,
        route.epoch,
        Phase(int(route.phase)) if int(route.phase) in _PHASES else Phase.UNSPECIFIED,
        route.locality,
    )


class RouteCache:
    """Tables and routes by the newest answer about each."""

    def __init__(self) -> None:
        self.revision = 0
        self._tables: dict[int, TableInfo] = {}
        self._as_of: dict[int, int] = {}  # table id -> revision of the newest answer that had it
        self._gone: dict[int, None] = {}  # the last dropped table ids: an answer of a replica that lags may have them
        self._names: dict[str, int] = {}
        self._routes: dict[int, tuple[int, Route]] = {}  # region id -> (revision, route)

    def table(self, name: str) -> TableInfo | None:
        """The table of that name."""
        table_id = self._names.get(name)
        return None if table_id is None else self._tables[table_id]

    def table_by_id(self, table_id: int) -> TableInfo | None:
        """The table of that id."""
        return self._tables.get(table_id)

    def tables(self) -> list[TableInfo]:
        """All tables, by name."""
        return [self._tables[self._names[name]] for name in sorted(self._names)]

    def route(self, region_id: int) -> Route | None:
        """The newest route known."""
        entry = self._routes.get(region_id)
        return None if entry is None else entry[1]

    def apply_event(self, event: routes_pb2.RoutesEvent) -> set[int]:
        """Take in one event of a watch; the ids of the regions whose route changed."""
        changed: set[int] = set()
        if event.snapshot and event.revision >= self.revision:
            changed = self._forget_all_but(event)
        for table_id in event.dropped_table_ids:
            changed |= self._drop(table_id)
        changed |= self.merge(event.revision, event.tables, event.routes)
        if not event.more:
            self.revision = max(self.revision, event.revision)
        return changed

    def merge(
        self, revision: int, tables: Iterable[types_pb2.Table], routes: Iterable[types_pb2.Route] = ()
    ) -> set[int]:
        """Take in an answer about some tables and routes; the ids of the regions whose route changed."""
        for table in tables:
            self._put_table(revision, table_from_wire(table))
        changed = set()
        for wire in routes:
            route = route_from_wire(wire)
            held = self._routes.get(route.region_id)
            if route.table_id not in self._gone and (
                held is None or (held[1].epoch, held[0]) <= (route.epoch, revision)
            ):
                self._routes[route.region_id] = (revision, route)
                if held is None or held[1] != route:
                    changed.add(route.region_id)
        return changed

    def reset_revision(self) -> None:
        """Accept snapshots of any revision again: every replica is behind what is held (a start from backup)."""
        self.revision = 0
        self._as_of = dict.fromkeys(self._as_of, 0)

    def _put_table(self, revision: int, table: TableInfo) -> None:
        held = self._tables.get(table.table_id)
        if table.table_id in self._gone or (held is not None and held.schema.version > table.schema.version):
            return
        same_name = self._names.get(table.name)
        if same_name is not None and same_name > table.table_id:
            return  # ids are never used again: the higher one is the living table of this name
        if same_name is not None and same_name != table.table_id:
            self._drop(same_name)
        self._tables[table.table_id] = table
        self._as_of[table.table_id] = max(revision, self._as_of.get(table.table_id, 0))
        self._names[table.name] = table.table_id

    def _drop(self, table_id: int) -> set[int]:
        self._gone[table_id] = None
        while len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]
        table = self._tables.pop(table_id, None)
        self._as_of.pop(table_id, None)
        if table is None:
            return set()
        if self._names.get(table.name) == table_id:
            del self._names[table.name]
        return {r for r in table.region_ids if self._routes.pop(r, None) is not None}

    def _forget_all_but(self, snapshot: routes_pb2.RoutesEvent) -> set[int]:
        living = {t.table_id for t in snapshot.tables}
        changed: set[int] = set()
        for table_id in [t for t in self._tables if t not in living and self._as_of[t] <= snapshot.revision]:
            changed |= self._drop(table_id)
        return changed
