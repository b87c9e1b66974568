"""The Routes service: from the applied state of any replica. Only "there is no such table" is for the leader to say."""

from collections.abc import AsyncIterator
from typing import Any

from groundwork.core.errors import BadInput, Refused, Unknown
from metasrv.adapters.feeds import Feed
from metasrv.adapters.forward import Forwarder
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.state_feeds import Key, StateFeeds
from metasrv.adapters.to_wire import route_to_wire, tables_to_wire
from metasrv.core.machine import Machine
from metasrv.core.records import Table
from metasrv.core.routes import live_tables, route_of_key, routes_of, table_routes
from protos.metasrv.v1 import routes_pb2
from protos.metasrv.v1.routes_pb2_grpc import RoutesServicer, RoutesStub

QUIET_MS = 1_000  # an empty event at least so often, so that a watcher can tell a dead stream from a quiet one
ROUTES_IN_EVENT_MAX = 2_000  # some 10 ms of work
REGIONS_ASKED_MAX = 10_000
BEHIND_MS = 1_000


class Routes(RoutesServicer):
    """See the module docstring."""

    def __init__(self, machine: Machine, feeds: StateFeeds, metrics: Metrics, forwarder: Forwarder) -> None:
        self._machine = machine
        self._forwarder = forwarder
        self._feeds = feeds
        self._metrics = metrics

    async def Get(self, request: routes_pb2.RoutesRequest, context: Any) -> routes_pb2.RoutesReply:
        """By table, by key, or by region."""
        return await self.find(request, context)

    async def find(self, request: routes_pb2.RoutesRequest, context: Any) -> routes_pb2.RoutesReply:
        """As Get. Raises BadInput; Refused("not_found") for a table that is not.

        A table that a follower does not know may have been made through another replica a moment ago: the leader says.
        """
        self._require_state()
        if request.table and self._machine.state.table_named(request.table) is None:
            return await self._forwarder.run(request, context, self._get, lambda c: RoutesStub(c).Get)
        return await self._get(request)

    async def _get(self, request: routes_pb2.RoutesRequest) -> routes_pb2.RoutesReply:
        state = self._machine.state
        if len(request.region_ids) > REGIONS_ASKED_MAX:
            raise BadInput("region_ids", f"{len(request.region_ids)} regions; at most {REGIONS_ASKED_MAX} at once")
        reply = routes_pb2.RoutesReply(revision=state.revision)
        if request.table:
            table = state.table_named(request.table)
            if table is None:
                raise Refused("not_found", f"there is no table {request.table!r}")
            reply.table.CopyFrom(tables_to_wire(state, [table.info()])[0])
            reply.routes.extend(map(route_to_wire, self._routes_in(table, dict(request.tags))))
        elif request.tags:
            raise BadInput("table", "tags are those of a table: name it")
        elif not request.region_ids:
            raise BadInput("table", "name a table or region_ids")
        reply.routes.extend(map(route_to_wire, routes_of(state, request.region_ids)))
        return reply

    def _routes_in(self, table: Table, tags: dict[str, str]) -> list[Any]:
        state = self._machine.state
        if not tags:
            return table_routes(state, table.table_id)
        info = table.info()
        known = {c.name for c in info.schema.tags}
        unknown = sorted(tags.keys() - known)
        if unknown:
            raise BadInput(f"tag {unknown[0]}", f"{table.name!r} has no such tag; its tags: {', '.join(sorted(known))}")
        route = route_of_key(state, table.table_id, tags)
        return [] if route is None else [route]

    async def Watch(self, request: routes_pb2.WatchRequest, context: Any) -> AsyncIterator[routes_pb2.RoutesEvent]:
        """A snapshot unless the changes since from_revision are still known here, then what changes."""
        with self._feeds.routes.reader() as feed, self._metrics.watchers.labels("routes").track_inprogress():
            self._require_state()
            await self._catch_up(request.from_revision, feed)
            self._begin(request.from_revision, feed)
            while not self._feeds.closing:
                async for event in self._events(feed):
                    yield event
                await feed.wait(QUIET_MS)

    def _require_state(self) -> None:
        """An empty state is not an answer: "no such table" would be wrong (T22)."""
        if not self._machine.state.cluster_id:
            raise Unknown("this replica has no state yet: it waits for the other replicas, or for the object store")

    async def _catch_up(self, from_revision: int, feed: Feed[Key]) -> None:
        """A watcher must not see this replica's older state: wait a moment for it to catch up."""
        if from_revision > self._machine.state.revision:
            feed.begin(everything=False)
            await feed.wait(BEHIND_MS)
        if from_revision > self._machine.state.revision:
            raise Unknown(
                f"this replica is at revision {self._machine.state.revision}, behind {from_revision}: ask another"
            )

    def _begin(self, from_revision: int, feed: Feed[Key]) -> None:
        outcomes = self._machine.changes_since(from_revision) if from_revision else None
        if outcomes is None:
            feed.mark_everything()
            return
        feed.begin(everything=False)
        for outcome in outcomes:
            feed.mark([*(("table", t) for t in outcome.tables), *(("region", r) for r in outcome.regions)])

    async def _events(self, feed: Feed[Key]) -> AsyncIterator[routes_pb2.RoutesEvent]:
        """What to send now: nothing new is an empty event. In slices, so that a million routes stall nobody.

        Later slices may be newer than the revision that they name; what changed meanwhile is in the feed again.
        """
        state = self._machine.state
        keys = feed.take()
        if keys is None:
            tables = live_tables(state)
            region_ids = [r for t in tables for r in t.region_ids]
            gone: list[int] = []
        else:
            asked = sorted(k for kind, k in keys if kind == "table")
            living = [t for i in asked if (t := state.tables.get(i)) is not None and not t.dropping]
            tables = [t.info() for t in living]
            gone = sorted(set(asked) - {t.table_id for t in living})
            region_ids = sorted({k for kind, k in keys if kind == "region"} | {r for t in tables for r in t.region_ids})
        event = routes_pb2.RoutesEvent(
            revision=state.revision,
            snapshot=keys is None,
            tables=tables_to_wire(state, tables),
            dropped_table_ids=gone,
        )
        for start in range(0, len(region_ids), ROUTES_IN_EVENT_MAX):
            slice_ = region_ids[start : start + ROUTES_IN_EVENT_MAX]
            event.routes.extend(map(route_to_wire, routes_of(self._machine.state, slice_)))
            if start + ROUTES_IN_EVENT_MAX < len(region_ids):
                event.more = True
                yield event
                event = routes_pb2.RoutesEvent(revision=event.revision)
        yield event
