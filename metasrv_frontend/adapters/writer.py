"""Writes pieces of rows to their regions, through failovers, until the deadline of the request.

Every region is driven by itself: a slow one holds no other back. An attempt that gets no answer is abandoned as soon as
a newer route is known. Attempts carry the same bytes, so a row that was kept twice is one row.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from groundwork.adapters.route_client import RouteClient
from groundwork.core.ports import Clock
from groundwork.core.route_cache import Route
from metasrv_frontend.adapters.datanodes import Datanodes
from metasrv_frontend.adapters.route_waits import RouteWaits
from metasrv_frontend.core.outcomes import Refusal, Then, pause_ms, telling
from metasrv_frontend.core.rows import Piece
from metasrv_frontend.metrics import Metrics

log = structlog.get_logger()
PATIENCE_MS = 300  # an answer that takes longer races with news of a newer route


class Undone(NamedTuple):
    """A region that has not all its rows, and why. Sending the same rows again is safe."""

    region_id: int
    refusal: Refusal


class Writer:
    """See the module docstring."""

    def __init__(
        self, routes: RouteClient, waits: RouteWaits, nodes: Datanodes, clock: Clock, metrics: Metrics
    ) -> None:
        self._routes = routes
        self._waits = waits
        self._nodes = nodes
        self._clock = clock
        self._metrics = metrics

    async def write(self, pieces: Mapping[int, Sequence[Piece]], until_ms: float) -> list[Undone]:
        """Write until every region has its rows or the deadline is over; the regions that have not."""
        answers = await asyncio.gather(*(self._drive(r, p, until_ms) for r, p in pieces.items()))
        return [Undone(r, refusal) for r, refusal in zip(pieces, answers, strict=True) if refusal is not None]

    async def _drive(self, region_id: int, pieces: Sequence[Piece], until_ms: float) -> Refusal | None:
        for piece in pieces:
            refusal = await self._drive_piece(region_id, piece, until_ms)
            if refusal is not None:
                return refusal
        return None

    async def _drive_piece(self, region_id: int, piece: Piece, until_ms: float) -> Refusal | None:
        attempt = 0
        refusal = Refusal("NO_ROUTE", Then.NEWER_ROUTE, "the region has no owner now")
        while True:
            left_ms = until_ms - self._clock.now_ms()
            if left_ms <= 0:
                log.debug("write_given_up", region_id=region_id, attempts=attempt, reason=refusal.message)
                return refusal
            route = self._routes.route(region_id)
            if route is None or not route.owned:
                await self._waits.newer(region_id, 0 if route is None else route.epoch, left_ms)
                if self._routes.route(region_id) is None:
                    return Refusal("NO_ROUTE", Then.GIVE_UP, "no such region: its table was dropped")
                continue
            answer = await self._attempt(route, piece, left_ms, attempt > 0)
            if answer is None:
                return None
            refusal = telling(refusal, answer, attempt, until_ms - self._clock.now_ms())
            self._metrics.retries.labels(refusal.code).inc()
            if refusal.then is Then.GIVE_UP:
                return refusal
            await self._before_next(route, refusal, attempt, until_ms)
            attempt += 1

    async def _before_next(self, route: Route, refusal: Refusal, attempt: int, until_ms: float) -> None:
        if refusal.moved_to is not None:
            self._routes.told(refusal.moved_to)
        if refusal.code == "STOPPED" and attempt == 0:
            return  # from now on it travels alone: then the node keeps it until it knows who has the region
        left_ms = until_ms - self._clock.now_ms()
        rest_ms = min(left_ms, pause_ms(attempt, refusal.pause_ms))
        if rest_ms <= 0:
            return
        if refusal.then is Then.NEWER_ROUTE:
            await self._waits.newer(route.region_id, route.epoch, rest_ms)
        else:
            await self._clock.sleep(rest_ms)

    async def _attempt(self, route: Route, piece: Piece, left_ms: float, retried: bool) -> Refusal | None:
        answer = self._nodes.write(route, piece, left_ms, retried)
        try:
            done, _ = await asyncio.wait({answer}, timeout=min(PATIENCE_MS, left_ms) / 1000)
            if done:
                return answer.result()
            newer = asyncio.create_task(self._waits.newer(route.region_id, route.epoch, left_ms - PATIENCE_MS))
            racing: set[asyncio.Future[Any]] = {answer, newer}
            try:
                await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                newer.cancel()
                await asyncio.gather(newer, return_exceptions=True)
            if answer.done():
                return answer.result()
            return Refusal("NO_ANSWER", Then.NEWER_ROUTE, f"{route.node_id} at {route.address} did not answer in time")
        finally:
            answer.cancel()
