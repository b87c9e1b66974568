"""Reads regions for queries, in parallel and through failovers, inside the deadline and a budget of bytes.

A region's rows count only as a whole: when its stream breaks, what came is thrown away and the region read again.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import grpc.aio
import pyarrow as pa
import structlog

from groundwork.adapters.route_client import RouteClient
from groundwork.core.errors import MetasrvError
from groundwork.core.ids import region_text
from groundwork.core.ports import Clock
from groundwork.core.route_cache import Route
from groundwork.core.table import TableInfo
from metasrv_frontend.adapters.datanodes import Datanodes, unreachable
from metasrv_frontend.adapters.route_waits import RouteWaits
from metasrv_frontend.core.outcomes import Refusal, Then, pause_ms, refusal_of, telling
from metasrv_frontend.core.pushdown import Need
from metasrv_frontend.metrics import Metrics
from protos.datanode.v1 import datanode_pb2

log = structlog.get_logger()
LOOK_MS = 300  # how often a silent stream is held against news of a newer route
REGIONS_AT_ONCE_MAX = 32


class RegionUnreadable(MetasrvError):
    """A region could not be read before the deadline."""


class TooMuchData(MetasrvError):
    """The query reads more than its budget."""


class PoolEmpty(MetasrvError):
    """All queries together hold as much as they may: ask again."""


class Pool:
    """The bytes that all queries may hold."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held = 0

    @contextmanager
    def share(self, bytes_max: int) -> Iterator["Budget"]:
        """The budget of one query, given back at the end."""
        budget = Budget(self, bytes_max)
        try:
            yield budget
        finally:
            budget.give_back(budget.held)


class Budget:
    """The bytes that one query may hold."""

    def __init__(self, pool: Pool, bytes_max: int) -> None:
        self._pool = pool
        self._bytes_max = bytes_max
        self.held = 0

    def take(self, size: int) -> None:
        """Count bytes in. Raises TooMuchData, PoolEmpty; then nothing is counted."""
        if self.held + size > self._bytes_max:
            raise TooMuchData(
                f"the query reads more than {self._bytes_max} bytes of rows (query_bytes_max): "
                "narrow its time range, its columns or its tags"
            )
        if self._pool.held + size > self._pool.bytes_max:
            raise PoolEmpty(
                f"all queries together read {self._pool.bytes_max} bytes now (queries_bytes_max); ask again"
            )
        self.held += size
        self._pool.held += size

    def give_back(self, size: int) -> None:
        """Count bytes out: they were thrown away."""
        self.held -= size
        self._pool.held -= size


class Scanner:
    """See the module docstring."""

    def __init__(
        self, routes: RouteClient, waits: RouteWaits, nodes: Datanodes, clock: Clock, metrics: Metrics
    ) -> None:
        self._routes = routes
        self._waits = waits
        self._nodes = nodes
        self._clock = clock
        self._metrics = metrics

    async def read(
        self, table: TableInfo, regions: Sequence[int], need: Need, strong: bool, until_ms: float, budget: Budget
    ) -> list[list[pa.RecordBatch]]:
        """The batches of each region. Raises RegionUnreadable, TooMuchData."""
        gate = asyncio.Semaphore(REGIONS_AT_ONCE_MAX)
        columns = [c.name for c in table.schema.columns if c.name in need.columns] or [table.schema.time.name]

        async def one(region_id: int) -> list[pa.RecordBatch]:
            request = datanode_pb2.ScanRequest(
                region_id=region_id,
                schema_version=table.schema.version,
                columns=columns,
                from_ns=need.from_ns if need.bounded else 0,
                to_ns=need.to_ns if need.bounded else 0,
                limit=need.limit,
                strong=strong,
            )
            async with gate:
                return await self._region(request, until_ms, budget)

        tasks = [asyncio.create_task(one(r)) for r in regions]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _region(self, request: datanode_pb2.ScanRequest, until_ms: float, budget: Budget) -> list[pa.RecordBatch]:
        region_id, attempt = request.region_id, 0
        refusal = Refusal("NO_ROUTE", Then.NEWER_ROUTE, "the region has no owner now")
        while (left_ms := until_ms - self._clock.now_ms()) > 0:
            route = self._routes.route(region_id)
            if route is None or not route.owned:
                await self._waits.newer(region_id, 0 if route is None else route.epoch, left_ms)
                if self._routes.route(region_id) is None:
                    raise RegionUnreadable(f"there is no region {region_text(region_id)}: its table was dropped")
                continue
            answer = await self._attempt(route, request, left_ms, budget)
            if not isinstance(answer, Refusal):
                return answer
            refusal = telling(refusal, answer, attempt, until_ms - self._clock.now_ms())
            self._metrics.retries.labels(refusal.code).inc()
            if refusal.then is Then.GIVE_UP:
                break
            if refusal.moved_to is not None:
                self._routes.told(refusal.moved_to)
            rest_ms = min(until_ms - self._clock.now_ms(), pause_ms(attempt, refusal.pause_ms))
            if refusal.then is Then.NEWER_ROUTE:
                await self._waits.newer(region_id, route.epoch, rest_ms)
            else:
                await self._clock.sleep(max(0.0, rest_ms))
            attempt += 1
        log.debug("scan_given_up", region_id=region_id, attempts=attempt, reason=refusal.message)
        raise RegionUnreadable(
            f"region {region_text(region_id)} could not be read: {refusal.code}: {refusal.message}; ask again"
        )

    async def _attempt(
        self, route: Route, request: datanode_pb2.ScanRequest, left_ms: float, budget: Budget
    ) -> list[pa.RecordBatch] | Refusal:
        asked = datanode_pb2.ScanRequest()
        asked.CopyFrom(request)
        asked.epoch = route.epoch
        with self._nodes.scanning(route) as (stub, target):
            asked.target.CopyFrom(target)
            return await self._collect(stub.Scan(asked, timeout=max(0.001, left_ms / 1000)), route, budget)

    async def _collect(
        self, stream: "grpc.aio.UnaryStreamCall[datanode_pb2.ScanRequest, datanode_pb2.ScanReply]", route: Route,
        budget: Budget,
    ) -> list[pa.RecordBatch] | Refusal:  # fmt: skip
        """All batches of one stream, which ends here; they stay in the budget, or a refusal and nothing does."""
        pieces: list[bytes] = []
        held = 0
        kept = False
        try:
            while True:
                reply = await self._next(stream, route)
                if isinstance(reply, Refusal):
                    return reply
                if reply is None:
                    break
                if reply.HasField("refused"):
                    refusal = refusal_of(reply.refused)
                    return refusal or Refusal("UNKNOWN_OUTCOME", Then.NEWER_ROUTE, "refused without a reason")
                budget.take(len(reply.ipc))
                held += len(reply.ipc)
                pieces.append(reply.ipc)
            batches = _decode(pieces)
            kept = not isinstance(batches, Refusal)
        except grpc.aio.AioRpcError as error:
            return unreachable(route.node_id, error)
        else:
            self._metrics.scanned_bytes.inc(held)
            return batches
        finally:
            stream.cancel()
            if not kept:
                budget.give_back(held)

    async def _next(
        self, stream: "grpc.aio.UnaryStreamCall[datanode_pb2.ScanRequest, datanode_pb2.ScanReply]", route: Route
    ) -> datanode_pb2.ScanReply | Refusal | None:
        """The next piece, None at the end, or a refusal when the stream is silent and the region has moved."""
        reading = asyncio.ensure_future(stream.read())
        reading.add_done_callback(lambda read: read.cancelled() or read.exception())  # also where nobody asks any more
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=LOOK_MS / 1000)
                if done:
                    reply = reading.result()
                    return reply if isinstance(reply, datanode_pb2.ScanReply) else None
                if await self._waits.newer(route.region_id, route.epoch, 0) is not None:
                    return Refusal("NO_ANSWER", Then.NEWER_ROUTE, f"{route.node_id} is silent and the region moved")
        finally:
            reading.cancel()


def _decode(pieces: list[bytes]) -> list[pa.RecordBatch] | Refusal:
    if not pieces:
        return Refusal("NO_ANSWER", Then.NEWER_ROUTE, "the stream ended before it began")
    try:
        with pa.ipc.open_stream(b"".join(pieces)) as stream:
            return list(stream)
    except (pa.ArrowInvalid, OSError) as error:
        return Refusal("NO_ANSWER", Then.NEWER_ROUTE, f"the stream is not whole: {error}")
