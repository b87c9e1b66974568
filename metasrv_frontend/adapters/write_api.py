"""HTTP: InfluxDB line protocol as v1 and v2 clients send it."""

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from groundwork.core.errors import BadInput, ConsensusError, ForeignCluster, MetasrvError, Refused
from groundwork.core.ports import Clock
from metasrv_frontend.adapters.bodies import InFlight, Overloaded, TooLarge, TooSlow, UnknownEncoding, read_body
from metasrv_frontend.adapters.deadlines import deadline_of
from metasrv_frontend.config import FrontendConfig
from metasrv_frontend.core.line_values import BadLine
from metasrv_frontend.ingest import Ingest, NotWritten
from metasrv_frontend.metrics import Metrics

log = structlog.get_logger()
RETRY_AFTER_S = "1"
REGIONS_LISTED_MAX = 100
# What clients that ask for a version get: the oldest that speaks both ways of writing.
VERSION_HEADERS = {"X-Influxdb-Version": "v1.8.10", "X-Influxdb-Build": "OSS"}


class WriteApi:
    """The write endpoints and what clients ask before they write."""

    def __init__(self, config: FrontendConfig, ingest: Ingest, clock: Clock, metrics: Metrics) -> None:
        self._config = config
        self._ingest = ingest
        self._clock = clock
        self._metrics = metrics
        self._in_flight = InFlight(config.in_flight_bytes_max)
        metrics.in_flight_bytes.set_function(lambda: float(self._in_flight.held))

    def routes(self) -> list[Route]:
        """Every path that clients use. There is one database: `db`, `bucket`, `org` are accepted and mean nothing."""
        writes = ("/v1/influxdb/write", "/v1/influxdb/api/v2/write", "/api/v2/write", "/write")
        pings = ("/ping", "/v1/influxdb/ping")
        return [
            *(Route(path, self.write, methods=["POST"]) for path in writes),
            *(Route(path, self.ping, methods=["GET", "HEAD"]) for path in pings),
            Route("/v1/influxdb/health", self.health, methods=["GET"]),
        ]

    async def ping(self, _: Request) -> Response:
        """Whether somebody is there."""
        return Response(status_code=204, headers=VERSION_HEADERS)

    async def health(self, _: Request) -> Response:
        """In the form that v2 clients read."""
        return JSONResponse({"name": "metasrv-frontend", "status": "pass", "message": "ready for writes", "checks": []})

    async def write(self, request: Request) -> Response:
        """Write a body of lines: 204 when every region has its rows."""
        start_ms = self._clock.now_ms()
        try:
            until_ms = start_ms + deadline_of(request, self._config.deadline_ms, self._config.deadline_ms_max)
            with self._in_flight.share() as share:
                within_ms = until_ms - self._clock.now_ms()
                body = await read_body(request, self._config.request_bytes_max, share, within_ms)
                rows = await self._ingest.write_lines(body, request.query_params.get("precision", ""), until_ms)
        except ClientDisconnect:
            self._metrics.requests.labels("write", "499").inc()
            return Response(status_code=499)
        except MetasrvError as error:
            response = _refusal(error)
            self._metrics.requests.labels("write", str(response.status_code)).inc()
            return response
        self._metrics.requests.labels("write", "204").inc()
        self._metrics.rows.inc(rows)
        self._metrics.write_seconds.observe((self._clock.now_ms() - start_ms) / 1000)
        return Response(status_code=204, headers=VERSION_HEADERS)


def _refusal(error: MetasrvError) -> Response:
    """Both generations of clients find their field: v1 reads `error`, v2 `code` and `message`."""
    status, code = _status(error)
    body: dict[str, object] = {"code": code, "message": str(error), "error": str(error)}
    if isinstance(error, BadLine):
        body["line"] = error.line
    if isinstance(error, NotWritten):
        body["regions_undone"] = len(error.undone)
        body["regions"] = [
            {
                "region_id": undone.region_id,
                "table": error.tables.get(undone.region_id, ""),
                "reason": undone.refusal.code,
                "message": undone.refusal.message,
            }
            for undone in error.undone[:REGIONS_LISTED_MAX]
        ]
    headers = dict(VERSION_HEADERS)
    if status == 408:
        headers["Connection"] = "close"  # the rest of the body may come, or never
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER_S
        log.warning("write_not_done", reason=str(error))
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def _status(error: MetasrvError) -> tuple[int, str]:
    match error:
        case TooLarge():
            return 413, "request too large"
        case TooSlow():
            return 408, "request timeout"
        case UnknownEncoding():
            return 415, "unsupported media type"
        case BadInput():
            return 400, "invalid"
        case Refused():
            return (503, "unavailable") if error.kind in ("busy", "no_leader", "no_node") else (400, "conflict")
        case NotWritten() | Overloaded() | ConsensusError() | ForeignCluster():
            return 503, "unavailable"
        case _:
            return 500, "internal error"
