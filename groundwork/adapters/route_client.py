"""The Python client of metasrv's routes: a cache that a watch stream keeps fresh, and the catalog's changes.

    client = RouteClient(["127.0.0.1:4001", "127.0.0.1:4002"], cluster_id)
    await client.start()
    await client.ready(deadline_ms=5_000)
    table = client.table("cpu")
    route = client.route(table.region_of({"host": "a"}))
    ...the node at route.address refuses route.epoch as stale...
    route = await client.wait_newer(route.region_id, route.epoch, deadline_ms=10_000)

Lookups never wait and never fail while metasrv is away: they answer from the cache.
"""

import asyncio
import uuid
from collections.abc import Sequence

import grpc
import grpc.aio
import structlog

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.replica_calls import ReplicaCalls
from groundwork.adapters.rpc import raise_if_cancelled
from groundwork.adapters.rpc_errors import typed
from groundwork.core.errors import ForeignCluster, MetasrvError, Refused, Unknown
from groundwork.core.ids import region_text
from groundwork.core.ports import Clock
from groundwork.core.route_cache import Route, RouteCache
from groundwork.core.table import Column, TableInfo
from groundwork.core.wire import column_to_wire, table_from_wire
from protos.metasrv.v1 import catalog_pb2, catalog_pb2_grpc, routes_pb2, routes_pb2_grpc, types_pb2

log = structlog.get_logger()
STALL_MS = 3_000  # a replica sends an empty event at least every second: a stream silent for so long is dead
POLL_MS = 500  # while someone waits, other replicas are asked too: the watched one may be cut off from the leader
DEADLINE_MS = 10_000
ROUNDS_BEHIND_MAX = 20
REDIAL_MS_MIN = 25
REDIAL_MS_MAX = 500


class RouteClient:
    """See the module docstring. One per process; use it on the event loop that started it."""

    def __init__(
        self,
        addresses: Sequence[str],
        cluster_id: str,
        tls: TlsConfig | None = None,
        clock: Clock | None = None,
        node_id: str = "",
    ) -> None:
        self.calls = ReplicaCalls(addresses, cluster_id, tls, clock, node_id)
        self.cache = RouteCache()
        self._clock = self.calls.clock
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._foreign = asyncio.Event()
        self._why_foreign = ""
        self._complained = False
        self._news: dict[asyncio.Event, None] = {}  # in the order of the calls

    async def start(self) -> None:
        """Begin to watch, in the background."""
        self._task = asyncio.create_task(self._watch_forever(), name="route-watch")

    async def stop(self) -> None:
        """Stop watching and close the channels."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.calls.close()

    async def ready(self, deadline_ms: float = DEADLINE_MS) -> None:
        """Wait for the first snapshot. Raises Unknown at the deadline."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                await self._ready.wait()
        except TimeoutError as error:
            raise Unknown(f"no metasrv replica sent its routes within {deadline_ms:.0f} ms") from error

    async def foreign(self) -> str:
        """Wait until a replica says, before any sent routes, that it belongs to another cluster; what it said."""
        await self._foreign.wait()
        return self._why_foreign

    @property
    def revision(self) -> int:
        """The revision of metasrv's state up to which the watch has come."""
        return self.cache.revision

    def table(self, name: str) -> TableInfo | None:
        """The table of that name, as the cache knows it."""
        return self.cache.table(name)

    def tables(self) -> list[TableInfo]:
        """All tables, by name."""
        return self.cache.tables()

    def route(self, region_id: int) -> Route | None:
        """The newest route known; None for a region never heard of."""
        return self.cache.route(region_id)

    def told(self, route: types_pb2.Route) -> None:
        """The node that had a region said where it is now: that counts if its epoch is higher than what is known."""
        if self.cache.route(route.region_id) is not None:
            self._tell(self.cache.merge(0, [], [route]))

    async def changed(self, within_ms: float) -> None:
        """Until the next change of any route, at most so long."""
        news = asyncio.Event()
        self._news[news] = None
        try:
            async with asyncio.timeout(within_ms / 1000):
                await news.wait()
        except TimeoutError:
            return  # the caller looks after both
        finally:
            del self._news[news]

    async def wait_newer(self, region_id: int, than_epoch: int, deadline_ms: float = DEADLINE_MS) -> Route:
        """The region's route once it has an owner under an epoch above `than_epoch`.

        Raises Unknown at the deadline, Refused("not_found") when the region's table is dropped meanwhile.
        """
        until = self._clock.now_ms() + deadline_ms
        news = asyncio.Event()
        self._news[news] = None
        try:
            while True:
                route = self.cache.route(region_id)
                if route is not None and route.epoch > than_epoch and route.owned:
                    return route
                left_ms = until - self._clock.now_ms()
                if left_ms <= 0:
                    raise Unknown(
                        f"region {region_text(region_id)}: no route newer than epoch {than_epoch:#x} "
                        f"within {deadline_ms:.0f} ms"
                    )
                news.clear()
                try:
                    async with asyncio.timeout(min(left_ms, POLL_MS) / 1000):
                        await news.wait()
                except TimeoutError:
                    await self._poll(region_id, min(left_ms, POLL_MS))
        finally:
            del self._news[news]

    async def refresh(
        self, table: str = "", region_ids: Sequence[int] = (), deadline_ms: float = DEADLINE_MS
    ) -> TableInfo | None:
        """Ask a replica now for a table with its routes, or for some regions; the table, None where there is none.

        Raises Unknown at the deadline.
        """
        request = routes_pb2.RoutesRequest(sender=self.calls.sender, table=table, region_ids=region_ids)
        try:
            reply = await self.calls.call(
                lambda channel: routes_pb2_grpc.RoutesStub(channel).Get, request, routes_pb2.RoutesReply, deadline_ms
            )
        except Refused as refused:
            if refused.kind == "not_found":
                return None
            raise
        self._tell(self.cache.merge(reply.revision, [reply.table] if reply.HasField("table") else [], reply.routes))
        return self.table(table) if table else None

    async def create_table(
        self,
        name: str,
        columns: Sequence[Column],
        *,
        partition_columns: Sequence[str] = (),
        partitions: int = 1,
        if_not_exists: bool = False,
        priority: int = 0,
        deadline_ms: float = DEADLINE_MS,
        request_id: str = "",
    ) -> TableInfo:
        """Create a table. Its regions may still be opening; requests to them wait at their owners.

        Raises BadInput, Refused("exists"), Unknown at the deadline.
        """
        request = catalog_pb2.CreateTableRequest(
            sender=self.calls.sender,
            name=name,
            columns=[column_to_wire(c) for c in columns],
            partition_columns=partition_columns,
            partitions=partitions,
            if_not_exists=if_not_exists,
            priority=priority,
            request_id=request_id or uuid.uuid4().hex,
        )
        reply = await self.calls.call(
            lambda channel: catalog_pb2_grpc.CatalogStub(channel).CreateTable,
            request,
            catalog_pb2.TableReply,
            deadline_ms,
        )
        return self._take(reply)

    async def widen_table(
        self, name: str, columns: Sequence[Column], *, deadline_ms: float = DEADLINE_MS, request_id: str = ""
    ) -> TableInfo:
        """Append fields and tags; those there already with the same type are fine. Raises as create_table does."""
        request = catalog_pb2.WidenTableRequest(
            sender=self.calls.sender,
            name=name,
            columns=[column_to_wire(c) for c in columns],
            request_id=request_id or uuid.uuid4().hex,
        )
        reply = await self.calls.call(
            lambda channel: catalog_pb2_grpc.CatalogStub(channel).WidenTable,
            request,
            catalog_pb2.TableReply,
            deadline_ms,
        )
        return self._take(reply)

    async def drop_table(
        self, name: str, *, if_exists: bool = False, deadline_ms: float = DEADLINE_MS, request_id: str = ""
    ) -> None:
        """Drop a table for good. Raises Refused("not_found") unless `if_exists`."""
        request = catalog_pb2.DropTableRequest(
            sender=self.calls.sender, name=name, if_exists=if_exists, request_id=request_id or uuid.uuid4().hex
        )
        reply = await self.calls.call(
            lambda channel: catalog_pb2_grpc.CatalogStub(channel).DropTable,
            request,
            catalog_pb2.TableReply,
            deadline_ms,
        )
        event = routes_pb2.RoutesEvent(dropped_table_ids=[reply.table.table_id] if reply.table.table_id else [])
        self._tell(self.cache.apply_event(event))

    def _take(self, reply: catalog_pb2.TableReply) -> TableInfo:
        """One's own change is in the cache when the call returns, however far behind the watched replica is."""
        self._tell(self.cache.merge(reply.revision, [reply.table], reply.routes))
        return table_from_wire(reply.table)

    async def _poll(self, region_id: int, deadline_ms: float) -> None:
        self.calls.prefer_next()
        try:
            await self.refresh(region_ids=[region_id], deadline_ms=deadline_ms)
        except Unknown as error:
            log.info("routes_not_refreshed", region_id=region_id, reason=str(error))

    def _tell(self, changed: set[int]) -> None:
        if changed:
            for news in self._news:
                news.set()

    async def _watch_forever(self) -> None:
        pause_ms = float(REDIAL_MS_MIN)
        turn = fruitless = 0
        while True:
            address = self.calls.addresses[turn % len(self.calls.addresses)]
            turn += 1
            heard = await self._watch_one(address)
            raise_if_cancelled()
            if heard:
                pause_ms, fruitless = float(REDIAL_MS_MIN), 0
                continue
            fruitless += 1
            if fruitless % len(self.calls.addresses) == 0:
                if fruitless >= ROUNDS_BEHIND_MAX * len(self.calls.addresses):
                    # All of them are away or refuse the revision: the next snapshot counts, whatever its revision is.
                    self.cache.reset_revision()
                await self._clock.sleep(pause_ms)
                pause_ms = min(2 * pause_ms, REDIAL_MS_MAX)

    async def _watch_one(self, address: str) -> bool:
        """Watch one replica until its stream breaks or stalls; whether it sent anything."""
        heard = False
        request = routes_pb2.WatchRequest(sender=self.calls.sender, from_revision=self.cache.revision)
        stream = routes_pb2_grpc.RoutesStub(self.calls.channel(address)).Watch(request)
        try:
            while True:
                # Not wait_for(): on 3.11 it swallows a cancellation that comes together with the event.
                async with asyncio.timeout(STALL_MS / 1000):
                    event = await stream.read()
                if not isinstance(event, routes_pb2.RoutesEvent):
                    return heard  # the end of the stream
                heard = True
                self._tell(self.cache.apply_event(event))
                if not event.more:
                    self._ready.set()
        except TimeoutError:
            log.warning("routes_watch_stalled", address=address, silent_ms=STALL_MS)
        except grpc.aio.AioRpcError as error:
            why = typed(error)
            if isinstance(why, ForeignCluster) and not self._ready.is_set():
                self._why_foreign = str(why)
                self._foreign.set()
            # While no replica can answer this comes again and again: said once until one was heard.
            say = log.info if heard or not self._complained else log.debug
            self._complained = not heard
            say("routes_watch_broken", address=address, code=error.code().name, reason=error.details())
        except MetasrvError as error:
            log.warning("routes_watch_unreadable", address=address, reason=str(error))
        finally:
            stream.cancel()
        return heard
