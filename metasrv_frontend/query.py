"""Statements of /v1/sql: queries run over what their regions send; the others change or show the catalog."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pyarrow as pa

from groundwork.adapters.route_client import RouteClient
from groundwork.core.arrow import arrow_schema
from groundwork.core.errors import Refused
from groundwork.core.ports import Clock, Workers
from groundwork.core.table import TableInfo
from metasrv_frontend.adapters.engine import Engine, NoSuchTable, QueryFailed
from metasrv_frontend.adapters.scanner import Budget, Pool, Scanner, TooMuchData
from metasrv_frontend.config import FrontendConfig
from metasrv_frontend.core.pushdown import Need, regions_of_need
from metasrv_frontend.core.query_depth import check_depth
from metasrv_frontend.core.results import Code, affected, description, listing
from metasrv_frontend.core.rows import padded, partitions_of_batch, split
from metasrv_frontend.core.sql_words import Kind, Statement, statements
from metasrv_frontend.core.statements import (
    QUERIES,
    CreateTable,
    Describe,
    DropTable,
    Insert,
    Show,
    parse,
    rows_to_batch,
)  # fmt: skip
from metasrv_frontend.ingest import Ingest

T = TypeVar("T")
TABLES_OF_QUERY_MAX = 64
TELL_MS = 250.0
Output = pa.Table | dict[str, Any]


class Busy(QueryFailed):
    """As many queries run as may."""

    def __init__(self, queries: int) -> None:
        super().__init__(Code.RESOURCES_EXHAUSTED, f"{queries} queries are running (in_flight_queries_max); ask again")


class Queries:
    """See the module docstring."""

    def __init__(
        self,
        config: FrontendConfig,
        routes: RouteClient,
        scanner: Scanner,
        ingest: Ingest,
        clock: Clock,
        workers: Workers,
    ) -> None:
        self._config = config
        self._routes = routes
        self._scanner = scanner
        self._ingest = ingest
        self._clock = clock
        self._workers = workers
        self._engine = Engine(config.query_bytes_max)
        self._pool = Pool(config.queries_bytes_max)
        self._running: set[asyncio.Task[pa.Table]] = set()

    async def stop(self) -> None:
        """Give up what runs."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def execute(self, statement: Statement, strong: bool, until_ms: float) -> Output:
        """Run one statement.

        Raises QueryFailed, BadInput, Refused, Unknown, RegionUnreadable, TooMuchData, NotWritten.
        """
        if statement.verb in QUERIES:
            check_depth(statement)
            if len(self._running) >= self._config.in_flight_queries_max:
                raise Busy(len(self._running))
            return await self._by_deadline(self._select(statement, strong, until_ms), until_ms)
        parsed = await self._ingest.worked(len(statement.text), functools.partial(parse, statement))
        left_ms = max(1.0, until_ms - self._clock.now_ms())
        match parsed:
            case CreateTable():
                await self._create(parsed, left_ms)
                return affected(0)
            case DropTable(table, if_exists):
                await self._drop(table, if_exists, left_ms)
                return affected(0)
            case Show(what, like):
                names = ["public"] if what == "databases" else [t.name for t in self._routes.tables()]
                return listing("Databases" if what == "databases" else "Tables", [n for n in names if _like(n, like)])
            case Describe(name):
                return description(await self._known_table(name, left_ms))
            case Insert():
                return affected(await self._insert(parsed, len(statement.text), until_ms))

    async def _by_deadline(self, query: Coroutine[Any, Any, pa.Table], until_ms: float) -> pa.Table:
        """The query's result, or its refusal. What cannot be stopped when its time is over goes on being counted."""
        task = asyncio.get_running_loop().create_task(query)
        self._running.add(task)
        task.add_done_callback(self._ended)
        # A little longer: whoever waits for regions says which when the deadline comes.
        within_ms = max(0.0, until_ms - self._clock.now_ms()) + TELL_MS
        try:
            done, _ = await asyncio.wait({task}, timeout=within_ms / 1000)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            raise _late()
        return task.result()

    def _ended(self, task: "asyncio.Task[pa.Table]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody asks any more

    async def read(self, sql: str) -> list[Statement]:
        """The statements of a text. Raises SqlSyntax."""
        return await self.beside(len(sql), functools.partial(statements, sql))

    async def beside(self, size: int, work: Callable[[], T]) -> T:
        """Do some work on so many bytes that is no query's, however long queries take."""
        return await self._ingest.worked(size, work)

    async def _create(self, create: CreateTable, left_ms: float) -> None:
        try:
            await self._routes.create_table(
                create.table,
                create.columns,
                partition_columns=create.partition_columns,
                partitions=create.partitions,
                if_not_exists=create.if_not_exists,
                deadline_ms=left_ms,
            )
        except Refused as refused:
            if refused.kind == "exists":
                raise QueryFailed(Code.TABLE_ALREADY_EXISTS, str(refused)) from refused
            raise

    async def _drop(self, name: str, if_exists: bool, left_ms: float) -> None:
        try:
            await self._routes.drop_table(name, if_exists=if_exists, deadline_ms=left_ms)
        except Refused as refused:
            if refused.kind == "not_found":
                raise NoSuchTable(name) from refused
            raise

    async def _insert(self, insert: Insert, size: int, until_ms: float) -> int:
        table = await self._known_table(insert.table, max(1.0, until_ms - self._clock.now_ms()))
        made = functools.partial(rows_to_batch, insert, table.schema, self._ingest.now_ns())
        batch = await self._ingest.worked(size, made)
        pieces = split(table, batch, partitions_of_batch(table, batch))
        await self._ingest.write_pieces(pieces, dict.fromkeys(pieces, table.name), until_ms)
        return batch.num_rows

    async def _known_table(self, name: str, left_ms: float) -> TableInfo:
        table = self._routes.table(name) or await self._routes.refresh(name, deadline_ms=left_ms)
        if table is None:
            raise NoSuchTable(name)
        return table

    async def _select(self, statement: Statement, strong: bool, until_ms: float) -> pa.Table:
        tables, needs = await self._planned(statement, until_ms)
        if statement.verb == "EXPLAIN":
            needs = {}
        with self._pool.share(self._config.query_bytes_max) as budget:
            data = await self._read_all(tables, needs, strong, until_ms, budget)
            return await self._workers.run(
                functools.partial(
                    self._engine.run, statement.text, tables, data, functools.partial(self._check_result, until_ms)
                )
            )

    async def _read_all(
        self, tables: dict[str, TableInfo], needs: dict[str, Need], strong: bool, until_ms: float, budget: Budget
    ) -> dict[str, list[list[pa.RecordBatch]]]:
        """What the query needs of every table; when one cannot be read, the others' reads are ended."""
        reads = [
            asyncio.create_task(self._read(tables[name], need, strong, until_ms, budget))
            for name, need in needs.items()
        ]
        try:
            return dict(zip(needs, await asyncio.gather(*reads), strict=True))
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    async def _planned(self, statement: Statement, until_ms: float) -> tuple[dict[str, TableInfo], dict[str, Need]]:
        """The tables that the text may mean, and what the plan needs of them. A table not yet heard of is asked for."""
        names = {w.name for w in statement.words if w.kind in (Kind.PLAIN, Kind.QUOTED)}
        tables = {t.name: t for t in map(self._routes.table, names) if t is not None}
        for _ in range(TABLES_OF_QUERY_MAX):
            try:
                return tables, await self._workers.run(functools.partial(self._engine.plan, statement.text, tables))
            except NoSuchTable as missing:
                if missing.name in tables or missing.name not in names:
                    raise
                left_ms = max(1.0, until_ms - self._clock.now_ms())
                tables[missing.name] = await self._known_table(missing.name, left_ms)
        raise QueryFailed(Code.PLAN_QUERY, f"the query names more than {TABLES_OF_QUERY_MAX} unknown tables")

    async def _read(
        self, table: TableInfo, need: Need, strong: bool, until_ms: float, budget: Budget
    ) -> list[list[pa.RecordBatch]]:
        if need.from_ns >= need.to_ns:
            return []
        regions = regions_of_need(table, need)
        schema = arrow_schema(table.schema)
        found = await self._scanner.read(table, regions, need, strong, until_ms, budget)
        return [[padded(batch, schema) for batch in batches] for batches in found]

    def _check_result(self, until_ms: float, size: int) -> None:
        if size > self._config.query_bytes_max:
            raise TooMuchData(
                f"the answer is bigger than {self._config.query_bytes_max} bytes (query_bytes_max): add a LIMIT"
            )
        if self._clock.now_ms() > until_ms:
            raise _late()


def _late() -> QueryFailed:
    return QueryFailed(Code.ENGINE_EXECUTE_QUERY, "the deadline of the request is over")


def _like(name: str, pattern: str | None) -> bool:
    """SQL's LIKE: % is any text, _ any character."""
    if pattern is None:
        return True
    at = place = 0
    many, behind = -1, 0  # the last %, and how much of the name it does not take
    while at < len(name):
        if place < len(pattern) and pattern[place] == "%":
            many, behind, place = place, at, place + 1
        elif place < len(pattern) and pattern[place] in ("_", name[at]):
            at, place = at + 1, place + 1
        elif many >= 0:  # only the last one takes more: never all ways to share a name out
            behind += 1
            at, place = behind, many + 1
        else:
            return False
    return not pattern[place:].strip("%")
