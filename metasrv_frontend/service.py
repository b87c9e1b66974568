"""The frontend: stateless, any number of them. Wires routes, datanodes, the write path and SQL to HTTP."""

import structlog
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.http import HttpServer
from groundwork.adapters.route_client import RouteClient
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.errors import BadInput, Unknown
from metasrv_frontend.adapters.datanodes import Datanodes
from metasrv_frontend.adapters.route_waits import RouteWaits
from metasrv_frontend.adapters.scanner import Scanner
from metasrv_frontend.adapters.sql_api import SqlApi
from metasrv_frontend.adapters.write_api import WriteApi
from metasrv_frontend.adapters.writer import Writer
from metasrv_frontend.config import FrontendConfig
from metasrv_frontend.ingest import Ingest
from metasrv_frontend.metrics import Metrics
from metasrv_frontend.query import Queries

log = structlog.get_logger()
WORKER_THREADS = 4
QUERY_THREADS = 4  # apart from those of writes: a query that takes long keeps no write waiting
STOP_MS_MAX = 5_000
STOP_LOOK_MS = 10


class Frontend:
    """One frontend process's parts. start() returns once it listens; it is ready when it has routes."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._clock = clock = SystemClock()
        self._stopping = False
        self._under_way = 0
        self.metrics = Metrics()
        self.routes = RouteClient(config.metasrv, config.cluster_id, config.tls, clock, config.node_id)
        self._workers = ThreadWorkers("frontend", WORKER_THREADS)
        self._query_workers = ThreadWorkers("queries", QUERY_THREADS)
        self._waits = RouteWaits(self.routes, clock)
        self._nodes = Datanodes(config.cluster_id, config.tls)
        writer = Writer(self.routes, self._waits, self._nodes, clock, self.metrics)
        scanner = Scanner(self.routes, self._waits, self._nodes, clock, self.metrics)
        ingest = Ingest(config, self.routes, writer, clock, self._workers)
        self._queries = Queries(config, self.routes, scanner, ingest, clock, self._query_workers)
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                *WriteApi(config, ingest, clock, self.metrics).routes(),
                *SqlApi(config, self._queries, clock, self._query_workers, self.metrics).routes(),
            ]
        )
        self.app.add_middleware(_Counted, self)
        self._http = HttpServer(self.app, config.http_listen)

    async def start(self) -> None:
        """Watch routes and listen. Raises BadInput when the port cannot be had."""
        await self._http.start()
        await self.routes.start()
        log.info("frontend_started", http=self._config.http_listen, metasrv=self._config.metasrv)

    async def failed(self) -> None:
        """Returns never; raises BadInput when metasrv is another cluster's from the start."""
        why = await self.routes.foreign()
        raise BadInput("cluster_id", f"{why}: correct cluster_id or metasrv")

    async def stop(self) -> None:
        """Say that it is not ready, finish what is under way for a while, stop listening, let go of everything."""
        self._stopping = True
        until_ms = self._clock.now_ms() + STOP_MS_MAX
        while self._under_way and self._clock.now_ms() < until_ms:
            await self._clock.sleep(STOP_LOOK_MS)
        log.info("frontend_stopping", requests_cut=self._under_way)
        await self._http.stop()
        await self._queries.stop()
        await self._waits.stop()
        await self._nodes.stop()
        await self.routes.stop()
        self._workers.close()
        self._query_workers.close(wait=False)  # a query that takes long cannot be stopped, and changes nothing
        log.info("frontend_stopped")

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "pass", "name": "metasrv-frontend", "message": "running"})

    def count(self, step: int) -> None:
        """One request more, or less, is under way."""
        self._under_way += step

    async def _ready(self, _: Request) -> Response:
        if self._stopping:
            return JSONResponse({"ready": False, "reason": "it is stopping"}, status_code=503)
        try:
            await self.routes.ready(deadline_ms=1)
        except Unknown as error:
            return JSONResponse({"ready": False, "reason": str(error)}, status_code=503)
        return JSONResponse({"ready": True, "revision": self.routes.revision})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type="text/plain; version=0.0.4")


class _Counted:
    """Counts requests under way, so that a graceful stop can wait for them."""

    def __init__(self, app: ASGIApp, frontend: Frontend) -> None:
        self._app = app
        self._frontend = frontend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._frontend.count(1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._frontend.count(-1)
