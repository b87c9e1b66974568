"""SQL text: statements that are not queries, names and literals, and what is refused with which words."""

import pytest

from groundwork.core.errors import BadInput
from groundwork.core.table import Column, Role, Schema
from metasrv_frontend.core.sql_words import SqlSyntax, statements
from metasrv_frontend.core.statements import (
    CreateTable,
    Describe,
    DropTable,
    Insert,
    Parsed,
    Show,
    parse,
    rows_to_batch,
)  # fmt: skip

SCHEMA = Schema(
    1,
    (
        Column("host", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        Column("v", "float64", Role.FIELD),
        Column("n", "int64", Role.FIELD),
    ),
)


def read(sql: str) -> Parsed:
    """The one statement of a text."""
    (statement,) = statements(sql)
    return parse(statement)


def test_create_table_in_full() -> None:
    """The form that GreptimeDB's users write: time index, primary key, hash partitions, engine."""
    assert read(
        """CREATE TABLE IF NOT EXISTS `My t` (
             Host STRING, dc VARCHAR(20) NOT NULL, ts TIMESTAMP(9) TIME INDEX, v DOUBLE, "Q x" BIGINT UNSIGNED NULL,
             b BOOLEAN, PRIMARY KEY (host, dc) -- two tags
           ) PARTITION BY HASH (host) PARTITIONS 4 ENGINE=mito;"""
    ) == CreateTable(
        "My t",
        (
            Column("host", "string", Role.TAG),
            Column("dc", "string", Role.TAG),
            Column("ts", "timestamp_ns", Role.TIME),
            Column("v", "float64", Role.FIELD),
            Column("Q x", "uint64", Role.FIELD),
            Column("b", "bool", Role.FIELD),
        ),
        ("host",),
        4,
        True,
    )


def test_create_table_with_constraints_last_and_words_as_names() -> None:
    """TIME INDEX may stand by itself, and keywords may be column names."""
    parsed = read("create table public.t (time timestamp, index string, TIME INDEX (time), primary key (index))")
    assert isinstance(parsed, CreateTable)
    assert [(c.name, c.role) for c in parsed.columns] == [("time", Role.TIME), ("index", Role.TAG)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DROP TABLE IF EXISTS greptime.public.T", DropTable("t", True)),
        ('drop table "T"', DropTable("T", False)),
        ("SHOW TABLES", Show("tables", None)),
        ("show full tables from public like 'cpu%'", Show("tables", "cpu%")),
        ("SHOW DATABASES", Show("databases", None)),
        ("DESC TABLE t", Describe("t")),
        ("describe t;", Describe("t")),
        ("INSERT INTO t VALUES ('a', 5, -1.5, NULL)", Insert("t", (), (("a", 5, -1.5, None),))),
        ("insert into t (ts, host) values (5, 'it''s'), (6, \"b\")",
         Insert("t", ("ts", "host"), ((5, "it's"), (6, "b")))),
    ],
)  # fmt: skip
def test_other_statements(sql: str, expected: Parsed) -> None:
    """Each in the spellings that people use."""
    assert read(sql) == expected


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "no statement"),
        (";;", "no statement"),
        ("select 'abc", "cannot be read"),
        ("DELETE FROM t", "DELETE is not supported"),
        ("CREATE DATABASE x", "expected TABLE"),
        ("CREATE TABLE t (a STRING)", "TIME INDEX"),
        ("CREATE TABLE t (a STRING, ts TIMESTAMP TIME INDEX, u TIMESTAMP TIME INDEX)", "exactly one TIME INDEX"),
        ("CREATE TABLE t (ts TIMESTAMP(3) TIME INDEX)", "nanoseconds"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, a JSON)", "type 'JSON'"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, a DOUBLE DEFAULT 1)", "DEFAULT is not supported"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, PRIMARY KEY (x))", "no column 'x'"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, n BIGINT, PRIMARY KEY (n))", "a tag is a string"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, n STRING) PARTITION BY HASH (n) PARTITIONS 2", "primary key"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, n STRING, PRIMARY KEY (n)) PARTITION BY HASH (n) PARTITIONS 0",
         "PARTITIONS 0"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX, ts STRING)", "named twice"),
        ("CREATE TABLE other.t (ts TIMESTAMP TIME INDEX)", "one database"),
        ("CREATE TABLE t (ts TIMESTAMP TIME INDEX) nonsense", "end of the statement"),
        ("INSERT INTO t VALUES (now())", "not a plain value"),
        ("DROP t", "expected TABLE"),
    ],
)  # fmt: skip
def test_refused(sql: str, reason: str) -> None:
    """A refusal says what was expected."""
    with pytest.raises(BadInput, match=reason):
        read(sql)


def test_several_statements() -> None:
    """A text is cut at its semicolons, not at those inside strings."""
    assert [s.text for s in statements("select ';' ; show tables;")] == ["select ';'", "show tables"]


def test_inserted_rows() -> None:
    """Literals become the columns' types; an absent tag is '', an absent time is now, a time may be text."""
    insert = read("INSERT INTO t (ts, v, n) VALUES (5, 1, 2), ('2024-01-01 00:00:00.5', NULL, NULL), (NULL, 2.5, -3)")
    assert isinstance(insert, Insert)
    batch = rows_to_batch(insert, SCHEMA, 77)
    assert batch.column("host").to_pylist() == ["", "", ""]
    assert batch.column("ts").cast("int64").to_pylist() == [5, 1_704_067_200_500_000_000, 77]
    assert batch.column("v").to_pylist() == [1.0, None, 2.5]
    assert batch.column("n").to_pylist() == [2, None, -3]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("INSERT INTO t VALUES ('a', 5)", "2 values for 4 columns"),
        ("INSERT INTO t (zz) VALUES (1)", "no column 'zz'"),
        ("INSERT INTO t (v, v) VALUES (1, 2)", "named twice"),
        ("INSERT INTO t (v) VALUES ('x')", "not a value of column 'v'"),
        ("INSERT INTO t (n) VALUES (1.5)", "not a value of column 'n'"),
        ("INSERT INTO t (n) VALUES (9223372036854775808)", "column 'n'"),
        ("INSERT INTO t (host) VALUES (5)", "not a value of column 'host'"),
        ("INSERT INTO t (ts) VALUES ('yesterday')", "column 'ts'"),
    ],
)
def test_rows_refused(sql: str, reason: str) -> None:
    """A value that does not fit names its column."""
    insert = read(sql)
    assert isinstance(insert, Insert)
    with pytest.raises(SqlSyntax, match=reason):
        rows_to_batch(insert, SCHEMA, 77)
