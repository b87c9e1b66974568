"""DataFusion: plans a query over empty tables, then runs it over what was read for it.

Queries only: no DDL, no DML, no settings, no files. Memory is bounded by a pool without spilling. All methods block and
are meant for a worker thread.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from datafusion import RuntimeEnvBuilder, SessionConfig, SessionContext, SQLOptions

from groundwork.core.arrow import arrow_schema
from groundwork.core.errors import MetasrvError
from groundwork.core.table import TableInfo
from metasrv_frontend.core.pushdown import Need, needs_of_plan
from metasrv_frontend.core.results import Code

_NO_TABLE = re.compile(r"table '(?:greptime\.)?(?:public\.)?(.+?)' not found")
_NO_COLUMN = re.compile(r"No field named")


class QueryFailed(MetasrvError):
    """The engine, or a limit, refuses a query. The message is the engine's own."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class NoSuchTable(QueryFailed):
    """A query names a table that is not known."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.TABLE_NOT_FOUND, f"Table not found: {name}")
        self.name = name


class Engine:
    """See the module docstring. One per process; every query gets a session of its own."""

    def __init__(self, memory_bytes_max: int) -> None:
        self._memory_bytes_max = memory_bytes_max
        allow_nothing = SQLOptions().with_allow_ddl(False).with_allow_dml(False)
        self._options = allow_nothing.with_allow_statements(False)

    def plan(self, sql: str, tables: Mapping[str, TableInfo]) -> dict[str, Need]:
        """What the query needs of each table. Raises QueryFailed, NoSuchTable."""
        session = self._session({}, tables)
        try:
            plan = session.sql_with_options(sql, self._options).optimized_logical_plan()
        except Exception as error:
            raise _typed(error) from error
        return needs_of_plan(plan, dict(tables))

    def run(
        self,
        sql: str,
        tables: Mapping[str, TableInfo],
        data: Mapping[str, Sequence[Sequence[pa.RecordBatch]]],
        check: Callable[[int], None],
    ) -> pa.Table:
        """Run over one list of batches a region. `check` sees the result's bytes so far and may raise to stop."""
        check(0)  # it may have waited for a thread for too long
        session = self._session(data, tables)
        try:
            frame = session.sql_with_options(sql, self._options)
            schema = frame.schema()
            batches, size = [], 0
            for item in frame.execute_stream():
                batch = item.to_pyarrow()
                size += batch.nbytes
                check(size)
                batches.append(batch)
        except MetasrvError:
            raise
        except Exception as error:
            raise _typed(error) from error
        return pa.Table.from_batches(batches, schema=batches[0].schema if batches else schema)

    def _session(
        self, data: Mapping[str, Sequence[Sequence[pa.RecordBatch]]], tables: Mapping[str, TableInfo]
    ) -> SessionContext:
        runtime = RuntimeEnvBuilder().with_disk_manager_disabled().with_greedy_memory_pool(self._memory_bytes_max)
        config = SessionConfig().with_default_catalog_and_schema("greptime", "public").with_information_schema(False)
        session = SessionContext(config, runtime)
        for name, table in tables.items():
            schema = arrow_schema(table.schema)
            partitions = [list(p) for p in data.get(name, []) if p] or [[pa.RecordBatch.from_pylist([], schema=schema)]]
            session.register_record_batches(_quoted(name), partitions)
        return session


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _typed(error: Exception) -> QueryFailed:
    # One line, and of a chain of causes the last: where it is wrong, not through which rule it was found.
    text = " ".join(str(error).rpartition("\ncaused by\n")[2].split())
    missing = _NO_TABLE.search(text)
    if missing:
        return NoSuchTable(missing.group(1))
    code = Code.ENGINE_EXECUTE_QUERY
    if _NO_COLUMN.search(text):
        code = Code.TABLE_COLUMN_NOT_FOUND
    elif "ParserError" in text:
        code = Code.INVALID_SYNTAX
    elif "Resources exhausted" in text:
        code = Code.RESOURCES_EXHAUSTED
        text += "; the query needs more memory than query_bytes_max: narrow it, or raise the limit"
    elif "not supported" in text or "during planning" in text or "type_coercion" in text:
        code = Code.PLAN_QUERY
    return QueryFailed(code, text)
