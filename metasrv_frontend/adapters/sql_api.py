"""HTTP: SQL in a form field or the query string, answers as JSON or as an Arrow stream."""

import functools
import io
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from groundwork.core.errors import BadInput, ConsensusError, ForeignCluster, MetasrvError, Refused
from groundwork.core.ports import Clock, Workers
from metasrv_frontend.adapters.bodies import InFlight, Overloaded, TooLarge, TooSlow, UnknownEncoding, read_body
from metasrv_frontend.adapters.deadlines import deadline_of
from metasrv_frontend.adapters.engine import QueryFailed
from metasrv_frontend.adapters.scanner import PoolEmpty, RegionUnreadable, TooMuchData
from metasrv_frontend.config import FrontendConfig
from metasrv_frontend.core.results import Code, failure, records, success
from metasrv_frontend.core.sql_words import SQL_BYTES_MAX, BadValue, NoColumn, SqlSyntax, Unsupported
from metasrv_frontend.ingest import NotWritten
from metasrv_frontend.metrics import Metrics
from metasrv_frontend.query import Busy, Output, Queries

log = structlog.get_logger()
ARROW_STREAM = "application/vnd.apache.arrow.stream"
OUTPUT_BYTES, ROW_BYTES = 500, 200  # of what is no table, about
FORMATS = ("greptimedb_v1", "json", "arrow")


class SqlApi:
    """/v1/sql."""

    def __init__(
        self, config: FrontendConfig, queries: Queries, clock: Clock, workers: Workers, metrics: Metrics
    ) -> None:
        self._config = config
        self._queries = queries
        self._clock = clock
        self._workers = workers
        self._metrics = metrics
        self._in_flight = InFlight(16 * SQL_BYTES_MAX)

    def routes(self) -> list[Route]:
        """The one path."""
        return [Route("/v1/sql", self.sql, methods=["GET", "POST"])]

    async def sql(self, request: Request) -> Response:
        """Run the statements of one request, in order; the first that fails ends it."""
        start_ms = self._clock.now_ms()
        try:
            until_ms = start_ms + deadline_of(request, self._config.deadline_ms, self._config.deadline_ms_max)
            asked = await self._parameters(request, until_ms)
            outputs = await self._run_all(asked, until_ms)
            took_ms = self._clock.now_ms() - start_ms
            shape = functools.partial(
                _answer, asked.get("format", "json"), outputs, took_ms, self._config.query_rows_max
            )
            if any(isinstance(output, pa.Table) for output in outputs):
                response = await self._workers.run(shape)
            else:  # what was written or made waits for no query
                response = await self._queries.beside(sum(map(_size, outputs)), shape)
        except ClientDisconnect:
            response = Response(status_code=499)
        except MetasrvError as error:
            response = _refusal(error, self._clock.now_ms() - start_ms)
        self._metrics.requests.labels("sql", str(response.status_code)).inc()
        self._metrics.query_seconds.observe((self._clock.now_ms() - start_ms) / 1000)
        return response

    async def _run_all(self, asked: dict[str, str], until_ms: float) -> list[Output]:
        """What each statement came to: together no more than one query may hold."""
        outputs: list[Output] = []
        size = 0
        for statement in await self._queries.read(asked["sql"]):
            output = await self._queries.execute(statement, asked.get("consistency") == "strong", until_ms)
            if asked.get("format") == "arrow":  # which answers the last one only
                outputs = [output]
                continue
            outputs.append(output)
            size += _size(output)
            if size > self._config.query_bytes_max:
                raise TooMuchData(
                    f"the answers of these statements are together bigger than {self._config.query_bytes_max} bytes "
                    "(query_bytes_max): add a LIMIT, or send them one by one"
                )
        return outputs

    async def _parameters(self, request: Request, until_ms: float) -> dict[str, str]:
        asked = dict(request.query_params)
        if request.method == "POST":
            with self._in_flight.share() as share:
                body = await read_body(request, 3 * SQL_BYTES_MAX, share, until_ms - self._clock.now_ms())
            kind = request.headers.get("content-type", "application/x-www-form-urlencoded").split(";")[0].strip()
            if body and kind != "application/x-www-form-urlencoded":
                raise BadInput("content-type", f"{kind!r}: send application/x-www-form-urlencoded with a field sql")
            try:
                form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=64)
            except ValueError as error:
                raise BadInput("body", f"not a form: {error}") from error
            asked.update({name: values[-1] for name, values in form.items()})
        if not asked.get("sql", "").strip():
            raise BadInput("sql", "send a statement as form field or query parameter sql")
        if asked.get("format", "json") not in FORMATS:
            raise BadInput("format", f"{asked['format']!r} is not one of {', '.join(FORMATS)}")
        if asked.get("consistency", "lease") not in ("lease", "strong"):
            raise BadInput("consistency", f"{asked['consistency']!r} is not lease or strong")
        return asked


def _answer(form: str, outputs: list[Output], took_ms: float, rows_max: int) -> Response:
    if form == "arrow":
        last = outputs[-1]
        return Response(_arrow(last if isinstance(last, pa.Table) else _as_table(last)), media_type=ARROW_STREAM)
    rows = sum(output.num_rows for output in outputs if isinstance(output, pa.Table))
    if rows > rows_max:
        raise TooMuchData(
            f"the answer has {rows} rows, of at most {rows_max} (query_rows_max): add a LIMIT, or ask for format=arrow"
        )
    shaped = [records(output) if isinstance(output, pa.Table) else output for output in outputs]
    headers = {"x-greptime-format": "greptimedb_v1", "x-greptime-execution-time": str(int(took_ms))}
    return Response(success(shaped, took_ms), headers=headers, media_type="application/json")


def _size(output: Output) -> int:
    """About how many bytes an output holds."""
    if isinstance(output, pa.Table):
        return output.nbytes
    return OUTPUT_BYTES + ROW_BYTES * len(output.get("records", {}).get("rows", ()))


def _arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _as_table(output: dict[str, Any]) -> pa.Table:
    if "records" not in output:
        return pa.table({"affectedrows": pa.array([output["affectedrows"]], pa.int64())})
    names = [c["name"] for c in output["records"]["schema"]["column_schemas"]]
    rows = output["records"]["rows"]
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)})


def _refusal(error: MetasrvError, took_ms: float) -> Response:
    status, code = _status(error)
    headers = {"x-greptime-err-code": str(int(code)), "x-greptime-execution-time": str(int(took_ms))}
    if status == 408:
        headers["Connection"] = "close"  # the rest of the body may come, or never
    if status == 503:
        headers["Retry-After"] = "1"
    if status >= 500:
        log.warning("statement_failed", status=status, reason=str(error))
    return Response(failure(code, str(error), took_ms), status, headers, media_type="application/json")


def _status(error: MetasrvError) -> tuple[int, Code]:
    match error:
        case TooLarge():
            return 413, Code.INVALID_ARGUMENTS
        case TooSlow():
            return 408, Code.INVALID_ARGUMENTS
        case UnknownEncoding():
            return 415, Code.INVALID_ARGUMENTS
        case Unsupported():
            return 400, Code.UNSUPPORTED
        case NoColumn():
            return 400, Code.TABLE_COLUMN_NOT_FOUND
        case BadValue():
            return 400, Code.INVALID_ARGUMENTS
        case SqlSyntax():
            return 400, Code.INVALID_SYNTAX
        case BadInput():
            return 400, Code.INVALID_ARGUMENTS
        case Busy() | Overloaded() | PoolEmpty():
            return 503, Code.RESOURCES_EXHAUSTED
        case QueryFailed():
            return (500 if error.code is Code.INTERNAL else 400), error.code
        case TooMuchData():
            return 400, Code.RESOURCES_EXHAUSTED
        case NotWritten() | RegionUnreadable() | ConsensusError() | ForeignCluster():
            return 503, Code.STORAGE_UNAVAILABLE
        case Refused():
            return 400, Code.INVALID_ARGUMENTS
        case _:
            return 500, Code.INTERNAL
