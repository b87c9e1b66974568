"""Waiting for newer routes, for many regions at once.

After a node is lost thousands of regions wait together. They share one pass over the route cache for each piece of
news, and one question to metasrv for all of them in case that the watch is cut off.
"""

import asyncio
from dataclasses import dataclass, field

import structlog

from groundwork.adapters.route_client import RouteClient
from groundwork.core.errors import MetasrvError
from groundwork.core.ports import Clock
from groundwork.core.route_cache import Route

log = structlog.get_logger()
LOOK_MS = 100
ASK_MS = 500
ASK_REGIONS_MAX = 1_000


@dataclass(eq=False)
class _Wait:
    region_id: int
    than_epoch: int
    found: asyncio.Future[Route] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class RouteWaits:
    """See the module docstring. The task that looks lives only while someone waits."""

    def __init__(self, routes: RouteClient, clock: Clock) -> None:
        self._routes = routes
        self._clock = clock
        self._waits: dict[_Wait, None] = {}  # in the order of the calls
        self._looking: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    async def newer(self, region_id: int, than_epoch: int, within_ms: float) -> Route | None:
        """The region's route once it has an owner under an epoch above `than_epoch`; None when the time is over."""
        route = self._newer_now(region_id, than_epoch)
        if route is not None or within_ms <= 0:
            return route
        wait = _Wait(region_id, than_epoch)
        self._waits[wait] = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="route-waits")
        try:
            async with asyncio.timeout(within_ms / 1000):
                return await wait.found
        except TimeoutError:
            return None
        finally:
            self._waits.pop(wait, None)

    async def stop(self) -> None:
        """End the background tasks."""
        for task in (self._looking, self._asking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _newer_now(self, region_id: int, than_epoch: int) -> Route | None:
        route = self._routes.route(region_id)
        return route if route is not None and route.owned and route.epoch > than_epoch else None

    async def _look(self) -> None:
        asked_ms = self._clock.now_ms()
        while self._waits:
            for wait in list(self._waits):
                route = self._newer_now(wait.region_id, wait.than_epoch)
                if route is not None and not wait.found.done():
                    wait.found.set_result(route)
                    self._waits.pop(wait, None)
            await self._routes.changed(LOOK_MS)
            now_ms = self._clock.now_ms()
            if now_ms - asked_ms >= ASK_MS and (self._asking is None or self._asking.done()):
                asked_ms = now_ms
                self._asking = asyncio.create_task(self._ask(), name="route-ask")

    async def _ask(self) -> None:
        regions = sorted({wait.region_id for wait in self._waits})[:ASK_REGIONS_MAX]
        if not regions:
            return
        self._routes.calls.prefer_next()
        try:
            await self._routes.refresh(region_ids=regions, deadline_ms=ASK_MS)
        except MetasrvError as error:
            log.info("routes_not_refreshed", regions=len(regions), reason=str(error))
