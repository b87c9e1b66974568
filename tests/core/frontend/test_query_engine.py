"""Queries against an oracle: DuckDB over all rows answers as the engine does over what the plan said it needs."""

import math
import re
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groundwork.core.arrow import arrow_schema
from groundwork.core.table import Column, Role, Schema, TableInfo
from metasrv_frontend.adapters.engine import Engine, NoSuchTable, QueryFailed
from metasrv_frontend.core.pushdown import Need, regions_of_need
from metasrv_frontend.core.results import Code, records
from metasrv_frontend.core.rows import padded, partitions_of_batch

START_NS = 1_704_067_200_000_000_000  # 2024-01-01
SECOND_NS = 1_000_000_000
CPU = TableInfo(
    7,
    "cpu",
    Schema(
        1,
        (
            Column("host", "string", Role.TAG),
            Column("dc", "string", Role.TAG),
            Column("ts", "timestamp_ns", Role.TIME),
            Column("v", "float64", Role.FIELD),
            Column("n", "int64", Role.FIELD),
            Column("big", "uint64", Role.FIELD),
            Column("ok", "bool", Role.FIELD),
            Column("msg", "string", Role.FIELD),
        ),
    ),
    ("host",),
    tuple(7 << 32 | i for i in range(4)),
)
EVENTS = TableInfo(
    8,
    "Odd events",
    Schema(1, (Column("host", "string", Role.TAG), Column("ts", "timestamp_ns", Role.TIME),
               Column("level", "int64", Role.FIELD))),
    (),
    (8 << 32,),
)  # fmt: skip
TABLES = {t.name: t for t in (CPU, EVENTS)}


def _rows() -> dict[str, pa.RecordBatch]:
    rng = np.random.default_rng(5)
    count = 600
    cpu = pa.RecordBatch.from_arrays(
        [
            pa.array([f"h{i % 7}" for i in range(count)]),
            pa.array([f"dc{i % 3}" for i in range(count)]),
            pa.array(START_NS + np.arange(count) * SECOND_NS).cast(pa.timestamp("ns")),
            pa.array([None if i % 11 == 0 else float(x) for i, x in enumerate(rng.normal(size=count))]),
            pa.array(rng.integers(-50, 50, count)),
            pa.array(rng.integers(0, 1 << 40, count).astype(np.uint64)),
            pa.array([None if i % 13 == 0 else i % 2 == 0 for i in range(count)]),
            pa.array([None if i % 5 == 0 else f"text {i}" for i in range(count)]),
        ],
        schema=arrow_schema(CPU.schema),
    )
    events = pa.RecordBatch.from_arrays(
        [
            pa.array([f"h{i % 5}" for i in range(40)]),
            pa.array(START_NS + np.arange(40) * 10 * SECOND_NS).cast(pa.timestamp("ns")),
            pa.array([i % 4 for i in range(40)]),
        ],
        schema=arrow_schema(EVENTS.schema),
    )
    return {"cpu": cpu, "Odd events": events}


ROWS = _rows()


def scan(table: TableInfo, need: Need) -> list[list[pa.RecordBatch]]:
    """What datanodes would send for a need, region by region, and not a row or column more."""
    batch = ROWS[table.name]
    partition = partitions_of_batch(table, batch)
    columns = [c.name for c in table.schema.columns if c.name in need.columns] or [table.schema.time.name]
    found = []
    for region_id in regions_of_need(table, need):
        mine = batch.filter(pa.array(partition == table.region_ids.index(region_id)))
        times = mine.column(table.schema.time.name).cast(pa.int64())
        mine = mine.filter(pc.and_(pc.greater_equal(times, need.from_ns), pc.less(times, need.to_ns)))
        if need.limit:
            mine = mine.slice(0, need.limit)
        found.append([padded(mine.select(columns), arrow_schema(table.schema))])
    return found


def ask(sql: str) -> pa.Table:
    """Plan, read what the plan needs, run."""
    engine = Engine(256 << 20)
    needs = engine.plan(sql, TABLES)
    return engine.run(sql, TABLES, {n: scan(TABLES[n], need) for n, need in needs.items()}, lambda _: None)


def oracle(sql: str) -> list[tuple[Any, ...]]:
    """DuckDB's answer over all rows; times as whole nanoseconds."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        for name, batch in ROWS.items():
            connection.register(name, pa.Table.from_batches([batch]))
        return _plain(connection.sql(sql).to_arrow_table())


def _plain(table: pa.Table) -> list[tuple[Any, ...]]:
    columns = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns")).cast(pa.int64())
        columns.append([_number(v) for v in column.to_pylist()])
    return list(zip(*columns, strict=True))


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.9g}")
    return value if value is None or isinstance(value, str | bool) else int(value)


def same(sql: str, ordered: bool = False) -> None:
    """Both answer alike."""
    mine, theirs = _plain(ask(sql)), oracle(sql)
    if not ordered:
        mine, theirs = sorted(mine, key=repr), sorted(theirs, key=repr)
    assert mine == theirs


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM cpu",
        "SELECT * FROM cpu",
        "SELECT host, count(*), sum(n), min(v), max(v), avg(v) FROM cpu GROUP BY host",
        "SELECT dc, max(big) FROM cpu WHERE ts >= '2024-01-01 00:01:00' AND ts < '2024-01-01 00:02:00' GROUP BY dc",
        "SELECT v FROM cpu WHERE host = 'h3' AND n > 10",
        "SELECT v FROM cpu WHERE host = 'h3' AND host = 'h4'",
        "SELECT v FROM cpu WHERE host IN ('h3', 'h4') AND ok",
        "SELECT n FROM cpu WHERE host = 'h1' OR ts < '2024-01-01 00:00:30'",
        "SELECT n FROM cpu WHERE (host = 'h1' AND ts > '2024-01-01 00:09:00') OR ts = '2024-01-01 00:00:05'",
        "SELECT n FROM cpu WHERE ts BETWEEN '2024-01-01 00:01:00' AND '2024-01-01 00:01:10'",
        "SELECT n FROM cpu WHERE NOT (ts < '2024-01-01 00:09:50')",
        "SELECT n FROM cpu WHERE ts < '2023-01-01'",
        "SELECT n FROM cpu WHERE 1 = 0",
        "SELECT msg FROM cpu WHERE msg LIKE '%9' AND v IS NULL",
        "SELECT host, n FROM cpu WHERE n = (SELECT max(n) FROM cpu WHERE host = 'h2')",
        "SELECT count(*) FROM cpu WHERE ts > '2024-01-01 00:09:00' AND n > (SELECT avg(n) FROM cpu)",
        'SELECT a.host, b.level FROM cpu a JOIN "Odd events" b ON a.host = b.host AND a.ts = b.ts WHERE b.level > 1',
        "SELECT a.n FROM cpu a JOIN cpu b ON a.n = b.n WHERE a.ts < '2024-01-01 00:00:10' AND b.host = 'h1'",
        "WITH x AS (SELECT * FROM cpu WHERE ts >= '2024-01-01 00:05:00') SELECT count(*) FROM x WHERE EXISTS "
        '(SELECT 1 FROM "Odd events" e WHERE e.host = x.host AND e.level = 3)',
        "SELECT n FROM cpu WHERE ts < '2024-01-01 00:00:10' UNION ALL SELECT level FROM \"Odd events\"",
        "SELECT date_trunc('minute', ts) AS m, count(v) FROM cpu GROUP BY m",
        "SELECT host, CASE WHEN n > 0 THEN 'up' ELSE 'down' END AS way, count(*) FROM cpu GROUP BY host, way",
        "SELECT count(DISTINCT dc), count(DISTINCT host) FROM cpu",
        "SELECT 1 + 1, 'x'",
        "SELECT host FROM cpu WHERE 1 = 1 OR v > 3",
    ],
)
def test_answers(sql: str) -> None:
    """Projections, filters, ranges, regions, joins, subqueries and unions need no more than what the plan names."""
    same(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ts, host, n FROM cpu ORDER BY ts DESC LIMIT 5",
        "SELECT host, ts, n FROM cpu WHERE dc = 'dc1' ORDER BY n, ts, host LIMIT 10 OFFSET 3",
        "SELECT ts, sum(n) OVER (PARTITION BY host ORDER BY ts) AS total, host FROM cpu ORDER BY host, ts",
        'SELECT level FROM "Odd events" ORDER BY ts LIMIT 3',
    ],
)
def test_ordered_answers(sql: str) -> None:
    """A limit above an order is not pushed below it."""
    same(sql, ordered=True)


def test_a_plain_limit() -> None:
    """A limit alone is pushed down: each region sends that many rows at most."""
    assert Engine(1 << 20).plan("SELECT v FROM cpu LIMIT 3", TABLES)["cpu"].limit == 3
    assert ask("SELECT v FROM cpu LIMIT 3").num_rows == 3
    assert Engine(1 << 20).plan("SELECT v FROM cpu WHERE n > 3 LIMIT 3", TABLES)["cpu"].limit == 0


def test_what_is_pushed_down() -> None:
    """Columns, a time range and the one region of a whole key."""
    need = Engine(1 << 20).plan("SELECT v FROM cpu WHERE host = 'h1' AND ts >= to_timestamp_nanos(5)", TABLES)["cpu"]
    assert need == Need(frozenset({"host", "ts", "v"}), from_ns=5, key=(("host", "h1"),))
    assert regions_of_need(CPU, need) == (CPU.region_of({"host": "h1"}),)


TIMES = st.integers(-2, 602).map(lambda s: f"'{np.datetime64('2024-01-01T00:00:00') + s}'".replace("T", " "))
ATOMS = st.one_of(
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "=", "<>"]), TIMES).map(lambda t: f"ts {t[0]} {t[1]}"),
    st.tuples(TIMES, st.sampled_from(["<", "<=", ">", ">=", "="])).map(lambda t: f"{t[0]} {t[1]} ts"),
    st.tuples(TIMES, TIMES).map(lambda t: f"ts BETWEEN {t[0]} AND {t[1]}"),
    st.sampled_from(["h0", "h1", "h6", "none"]).map(lambda h: f"host = '{h}'"),
    st.sampled_from(["n > 0", "v IS NULL", "host <> 'h2'", "host IN ('h1', 'h2')", "ok", "dc = 'dc1'"]),
)
PREDICATES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda p: f"NOT ({p})"),
    ),
    max_leaves=6,
)


# The same examples in every run: the engine's fault in the next test has forms that we may not have met yet.
@settings(deadline=None, max_examples=120, derandomize=True)
@given(PREDICATES)
def test_any_predicate(predicate: str) -> None:
    """Whatever the predicate, what is pushed down never loses a row."""
    first = re.findall(r"('[^']+') (?:<|<=|>|>=|=) ts", predicate)
    assume(len(set(first)) == len(first))  # two bounds that are equal and come first: the next test
    same(f"SELECT host, ts, n FROM cpu WHERE {predicate}")


@pytest.mark.xfail(strict=True, reason="DataFusion 55 keeps the wrong one of two equal bounds that come first")
def test_equal_bounds_that_come_first() -> None:
    """The engine's own fault, told in docs/frontend.md: with the column first the same predicate is right."""
    same("SELECT ts FROM cpu WHERE ts <= '2024-01-01 00:00:01' AND ts < '2024-01-01 00:00:01'")
    same("SELECT ts FROM cpu WHERE '2024-01-01 00:00:01' >= ts AND '2024-01-01 00:00:01' > ts")


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        ("SELECT zz FROM cpu", Code.TABLE_COLUMN_NOT_FOUND, "No field named zz"),
        ("SELECT n FROM cpu WHERE (", Code.INVALID_SYNTAX, "ParserError"),
        ("CREATE TABLE x AS SELECT 1", Code.PLAN_QUERY, "not supported"),
        ("SELECT n FROM cpu WHERE ts > 5", Code.PLAN_QUERY, "Timestamp"),
        ("SELECT * FROM '/etc/hostname'", Code.TABLE_NOT_FOUND, "not found"),
    ],
)
def test_refusals(sql: str, code: Code, words: str) -> None:
    """The engine's own words, under a code of ours; nothing but queries, and no files."""
    with pytest.raises(QueryFailed, match=words) as caught:
        ask(sql)
    assert caught.value.code is code


def test_an_unknown_table_is_named() -> None:
    """So that the caller can ask metasrv about it."""
    with pytest.raises(NoSuchTable) as caught:
        ask('SELECT * FROM "Not there"')
    assert caught.value.name == "Not there"


def test_memory_is_bounded() -> None:
    """A query that needs more than the pool says so, and what to do."""
    engine = Engine(100_000)
    sql = "SELECT msg, count(*) FROM cpu GROUP BY msg ORDER BY msg"
    data = {
        "cpu": [[batch for _ in range(20) for batch in part] for part in scan(CPU, engine.plan(sql, TABLES)["cpu"])]
    }
    with pytest.raises(QueryFailed, match="query_bytes_max"):
        engine.run(sql, TABLES, data, lambda _: None)


def _types(output: dict[str, Any]) -> Sequence[str]:
    return [c["data_type"] for c in output["records"]["schema"]["column_schemas"]]


def test_the_shape_of_an_answer() -> None:
    """Names of types, times as whole numbers, nulls for what JSON cannot say."""
    output = records(ask("SELECT host, ts, v, n, big, ok, CAST('nan' AS DOUBLE) AS x FROM cpu ORDER BY ts LIMIT 1"))
    assert _types(output) == ["String", "TimestampNanosecond", "Float64", "Int64", "UInt64", "Boolean", "Float64"]
    assert output["records"]["total_rows"] == 1
    row = output["records"]["rows"][0]
    assert row[:3] == ["h0", START_NS, None]
    assert row[6] is None
