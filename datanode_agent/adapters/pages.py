"""The HTTP pages: /health (it runs), /ready (it may serve), /metrics."""

from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Readiness(msgspec.Struct, frozen=True):
    """Whether the datanode may serve, and what it waits for where not."""

    ready: bool
    why: str
    node_id: str
    incarnation: int
    lease_left_ms: int


def pages(
    readiness: Callable[[], Readiness], registry: CollectorRegistry, refresh_gauges: Callable[[], None]
) -> Starlette:
    """The ASGI application."""

    async def health(_: Request) -> Response:
        return Response(b'{"status":"up"}', media_type="application/json")

    async def ready(_: Request) -> Response:
        now = readiness()
        return Response(msgspec.json.encode(now), 200 if now.ready else 503, media_type="application/json")

    async def metrics(_: Request) -> Response:
        refresh_gauges()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return Starlette(routes=[Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)])
