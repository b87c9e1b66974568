"""The statements that are not queries: CREATE TABLE, DROP TABLE, SHOW, DESCRIBE and INSERT with plain values."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from groundwork.core.arrow import arrow_schema
from groundwork.core.table import (
    PARTITIONS_MAX,
    Column,
    ColumnType,
    Role,
    Schema,
    check_columns,
    check_new_columns,
)
from metasrv_frontend.core.line_values import TIME_NS_MAX
from metasrv_frontend.core.sql_words import (
    BadValue,
    Kind,
    NoColumn,
    Reader,
    SqlSyntax,
    Statement,
    Unsupported,
    Word,
)

QUERIES = frozenset({"SELECT", "WITH", "VALUES", "EXPLAIN", "(", "TABLE"})
_STRING: ColumnType = "string"
_FLOAT: ColumnType = "float64"
_INT: ColumnType = "int64"
_UINT: ColumnType = "uint64"
_BOOL: ColumnType = "bool"
_TIME: ColumnType = "timestamp_ns"
_TYPES: dict[str, ColumnType] = {
    **dict.fromkeys(("STRING", "TEXT", "VARCHAR", "CHAR"), _STRING),
    **dict.fromkeys(("DOUBLE", "FLOAT64", "FLOAT", "REAL", "FLOAT32"), _FLOAT),
    **dict.fromkeys(("BIGINT", "INT64", "INT", "INTEGER", "INT32", "INT16", "INT8", "SMALLINT", "TINYINT"),
                    _INT),
    **dict.fromkeys(("UINT64", "UINT32", "UINT16", "UINT8"), _UINT),
    **dict.fromkeys(("BOOLEAN", "BOOL"), _BOOL),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMPNANOSECOND"), _TIME),
}  # fmt: skip
Literals = str | int | float | bool | None


class CreateTable(NamedTuple):
    """CREATE TABLE, checked."""

    table: str
    columns: tuple[Column, ...]
    partition_columns: tuple[str, ...]
    partitions: int
    if_not_exists: bool


class DropTable(NamedTuple):
    """DROP TABLE."""

    table: str
    if_exists: bool


class Show(NamedTuple):
    """SHOW TABLES or SHOW DATABASES, with the pattern of LIKE or None."""

    what: Literal["tables", "databases"]
    like: str | None


class Describe(NamedTuple):
    """DESCRIBE TABLE."""

    table: str


class Insert(NamedTuple):
    """INSERT INTO ... VALUES. No columns named: all, in order of creation."""

    table: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Literals, ...], ...]


# What people know from other databases, and do not find here.
_ELSEWHERE = frozenset(
    {"ALTER", "ANALYZE", "CALL", "COPY", "DELETE", "GRANT", "MERGE", "REPLACE", "REVOKE", "SET", "TRUNCATE",
     "UPDATE", "USE", "VACUUM"}
)  # fmt: skip

Parsed = CreateTable | DropTable | Show | Describe | Insert


def parse(statement: Statement) -> Parsed:
    """Read a statement that is not a query. Raises SqlSyntax, BadInput."""
    reader = Reader(statement)
    readers: dict[str, Callable[[Reader], Parsed]] = {
        "CREATE": _create, "DROP": _drop, "SHOW": _show, "DESCRIBE": _describe, "DESC": _describe, "INSERT": _insert,
    }  # fmt: skip
    verb = statement.verb
    if verb not in readers:
        raise (Unsupported if verb in _ELSEWHERE else SqlSyntax)(
            f"{verb} is not supported; there are SELECT, INSERT INTO ... VALUES, CREATE TABLE, DROP TABLE, "
            "SHOW TABLES, DESCRIBE TABLE and EXPLAIN"
        )
    reader.next(verb)
    parsed = readers[verb](reader)
    reader.end()
    return parsed


def _drop(reader: Reader) -> DropTable:
    reader.expect("TABLE")
    if_exists = reader.accept("IF", "EXISTS")
    return DropTable(reader.table_name(), if_exists)


def _show(reader: Reader) -> Show:
    reader.accept("FULL")
    databases = reader.accept("DATABASES") or reader.accept("SCHEMAS")
    if not databases:
        reader.expect("TABLES")
        if reader.accept("FROM") or reader.accept("IN"):
            reader.expect("PUBLIC")
    like = reader.next("a pattern").text if reader.accept("LIKE") else None
    return Show("databases" if databases else "tables", like)


def _describe(reader: Reader) -> Describe:
    reader.accept("TABLE")
    return Describe(reader.table_name())


def _create(reader: Reader) -> CreateTable:
    reader.expect("TABLE")
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    table = reader.table_name()
    types: dict[str, ColumnType] = {}
    keys: list[str] = []
    times: list[str] = []
    reader.expect("(")
    while True:
        _create_part(reader, types, keys, times)
        if not reader.accept(","):
            break
    reader.expect(")")
    partition_columns, partitions = _create_tail(reader)
    if len(set(times)) != 1:
        raise SqlSyntax("name exactly one TIME INDEX, as in: ts TIMESTAMP(9) TIME INDEX")
    for name in [*keys, *times, *partition_columns]:
        if name not in types:
            raise NoColumn(f"there is no column {name!r}")
    roles = {name: Role.TAG if name in keys else Role.TIME if name == times[0] else Role.FIELD for name in types}
    if times[0] in keys:
        raise SqlSyntax("the time index is part of every row's key already: leave it out of PRIMARY KEY")
    columns = tuple(Column(name, kind, roles[name]) for name, kind in types.items())
    check_columns(columns)
    check_new_columns(columns)
    if not set(partition_columns) <= set(keys):
        raise BadValue("PARTITION BY HASH names columns of the primary key")
    return CreateTable(table, columns, tuple(partition_columns), partitions, if_not_exists)


def _create_part(reader: Reader, types: dict[str, ColumnType], keys: list[str], times: list[str]) -> None:
    """One column, or one of the constraints PRIMARY KEY (...) and TIME INDEX (...)."""
    if reader.accept("PRIMARY", "KEY"):
        keys += reader.names()
        return
    following = reader.peek(2)
    if following is not None and following.text == "(" and reader.accept("TIME", "INDEX"):
        times += reader.names()
        return
    name = reader.name("a column name")
    if name in types:
        raise SqlSyntax(f"column {name!r} is named twice")
    types[name] = _column_type(reader)
    while True:
        if reader.accept("TIME", "INDEX"):
            times.append(name)
        elif reader.accept("PRIMARY", "KEY"):
            keys.append(name)
        elif not (reader.accept("NOT", "NULL") or reader.accept("NULL")):
            break
    word = reader.peek()
    if word is not None and word.text.upper() == "DEFAULT":
        raise Unsupported(f"column {name!r}: DEFAULT is not supported; an absent tag is '', an absent field is NULL")


def _column_type(reader: Reader) -> ColumnType:
    word = reader.next("a type")
    upper = word.text.upper()
    found = _TYPES.get(upper)
    if found is None:
        raise Unsupported(
            f"type {word.text!r} is not one of STRING, DOUBLE, BIGINT, BIGINT UNSIGNED, BOOLEAN, TIMESTAMP(9)"
        )
    if upper == "DOUBLE":
        reader.accept("PRECISION")
    if found == "int64" and reader.accept("UNSIGNED"):
        found = "uint64"
    if reader.accept("("):
        size = reader.next("a number").text
        reader.expect(")")
        if found == "timestamp_ns" and size != "9":
            raise Unsupported(f"TIMESTAMP({size}): times are kept in nanoseconds, write TIMESTAMP(9)")
    return found


def _create_tail(reader: Reader) -> tuple[list[str], int]:
    partition_columns: list[str] = []
    partitions = 1
    if reader.accept("PARTITION", "BY", "HASH"):
        partition_columns = reader.names()
        reader.expect("PARTITIONS")
        word = reader.next("a number of partitions")
        if word.kind is not Kind.NUMBER or not word.text.isdigit() or not 1 <= int(word.text) <= PARTITIONS_MAX:
            raise BadValue(f"PARTITIONS {word.text}: not 1 to {PARTITIONS_MAX}; some for each datanode are enough")
        partitions = int(word.text)
    if reader.accept("ENGINE"):
        reader.expect("=")
        reader.name("an engine")  # there is one, whatever its name
    return partition_columns, partitions


def _insert(reader: Reader) -> Insert:
    reader.expect("INTO")
    table = reader.table_name()
    word = reader.peek()
    columns = reader.names() if word is not None and word.text == "(" else []
    reader.expect("VALUES")
    rows = []
    while True:
        reader.expect("(")
        row = [_literal(reader)]
        while reader.accept(","):
            row.append(_literal(reader))
        reader.expect(")")
        rows.append(tuple(row))
        if not reader.accept(","):
            break
    return Insert(table, tuple(columns), tuple(rows))


def _literal(reader: Reader) -> Literals:
    sign = "-" if reader.accept("-") else ""
    word: Word = reader.next("a value")
    if word.kind is Kind.NUMBER:
        return _number(sign + word.text)
    if not sign and word.kind in (Kind.STRING, Kind.QUOTED):
        return word.text
    known: dict[str, Literals] = {"TRUE": True, "FALSE": False, "NULL": None}
    if not sign and word.text.upper() in known:
        return known[word.text.upper()]
    raise SqlSyntax(f"{word.text!r} is not a plain value: a number, a string, TRUE, FALSE or NULL")


def _number(text: str) -> int | float:
    """A whole number or a float. Raises BadValue for what is cut short, and what neither can hold."""
    try:
        value = int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:  # also from int(), for thousands of digits
        raise BadValue(f"{text[:30]!r} is not a number: {error}") from error
    if isinstance(value, float) and math.isinf(value):
        raise BadValue(f"{text[:30]!r} is too big for a float")
    return value


def rows_to_batch(insert: Insert, schema: Schema, now_ns: int) -> pa.RecordBatch:
    """The rows of an INSERT in the order of the table's schema. Raises SqlSyntax."""
    names = insert.columns or tuple(c.name for c in schema.columns)
    if len(set(names)) < len(names):
        raise SqlSyntax("a column is named twice")
    for name in names:
        if schema.column(name) is None:
            raise NoColumn(f"table {insert.table!r} has no column {name!r}")
    for number, row in enumerate(insert.rows, 1):
        if len(row) != len(names):
            raise BadValue(f"row {number} has {len(row)} values for {len(names)} columns")
    arrow = arrow_schema(schema)
    arrays = []
    for column, kind in zip(schema.columns, arrow.types, strict=True):
        place = names.index(column.name) if column.name in names else None
        values: list[Literals] = [None if place is None else row[place] for row in insert.rows]
        if column.role is Role.TAG:
            values = ["" if value is None else value for value in values]
        if column.role is Role.TIME:
            values = [now_ns if value is None else value for value in values]
        arrays.append(_array(values, kind, column))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow)


def _array(values: list[Literals], kind: pa.DataType, column: Column) -> "pa.Array[pa.Scalar[pa.DataType]]":
    for value in values:
        fits = {
            "string": isinstance(value, str), "bool": isinstance(value, bool),
            "timestamp_ns": isinstance(value, str | int) and not isinstance(value, bool),
            "float64": isinstance(value, int | float) and not isinstance(value, bool),
        }.get(column.type, isinstance(value, int) and not isinstance(value, bool))  # fmt: skip
        if value is not None and not fits:
            raise BadValue(f"{value!r} is not a value of column {column.name!r} ({column.type})")
    try:
        if column.type == "timestamp_ns":
            times: list[Any] = values
            parts = [pa.scalar(v).cast(kind).cast(pa.int64()).as_py() for v in times]
            if max(parts) > TIME_NS_MAX:
                raise BadValue(f"column {column.name!r}: {max(parts)} is outside the years 1677 to 2262")
            return pa.array(parts, pa.int64()).cast(kind)
        return pa.array([float(v) if column.type == "float64" and v is not None else v for v in values], kind)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise BadValue(f"column {column.name!r}: {error}") from error
