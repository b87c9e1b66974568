"""Answers of /v1/sql in the JSON shapes that GreptimeDB's clients read."""

import enum
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from groundwork.core.table import Role, TableInfo


class Code(enum.IntEnum):
    """Error codes of the body. 0 is success and never sent."""

    UNKNOWN = 1000
    UNSUPPORTED = 1001
    INTERNAL = 1003
    INVALID_ARGUMENTS = 1004
    INVALID_SYNTAX = 2000
    PLAN_QUERY = 3000
    ENGINE_EXECUTE_QUERY = 3001
    TABLE_ALREADY_EXISTS = 4000
    TABLE_NOT_FOUND = 4001
    TABLE_COLUMN_NOT_FOUND = 4002
    STORAGE_UNAVAILABLE = 5000
    RESOURCES_EXHAUSTED = 6000


_UNITS = {"s": "Second", "ms": "Millisecond", "us": "Microsecond", "ns": "Nanosecond"}
_SIMPLE: dict[str, str] = {
    "null": "Null", "bool": "Boolean", "int8": "Int8", "int16": "Int16", "int32": "Int32", "int64": "Int64",
    "uint8": "UInt8", "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64", "halffloat": "Float32",
    "float": "Float32", "double": "Float64", "string": "String", "large_string": "String", "string_view": "String",
    "binary": "Binary", "large_binary": "Binary", "binary_view": "Binary", "date32[day]": "Date",
    "month_day_nano_interval": "IntervalMonthDayNano",
}  # fmt: skip


def type_name(kind: pa.DataType) -> str:
    """The name of an Arrow type in an answer."""
    if isinstance(kind, pa.TimestampType):
        return "Timestamp" + _UNITS[kind.unit]
    if isinstance(kind, pa.DurationType):
        return "Duration" + _UNITS[kind.unit]
    if isinstance(kind, pa.Time32Type | pa.Time64Type):
        return "Time" + _UNITS[kind.unit]
    if isinstance(kind, pa.Decimal128Type | pa.Decimal256Type):
        return f"Decimal({kind.precision}, {kind.scale})"
    if isinstance(kind, pa.DictionaryType):
        return type_name(kind.value_type)
    if isinstance(kind, pa.ListType | pa.LargeListType):
        return f"List<{type_name(kind.value_type)}>"
    return _SIMPLE.get(str(kind), str(kind))


def records(table: pa.Table) -> dict[str, Any]:
    """One result as an element of `output`. Times are whole numbers in the unit of their type, NaN is null."""
    columns = [_plain_values(table.column(i)) for i in range(table.num_columns)]
    rows = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in range(table.num_rows)]
    return _records([(f.name, type_name(f.type)) for f in table.schema], rows)


def _records(columns: Sequence[tuple[str, str]], rows: list[Any]) -> dict[str, Any]:
    schema = {"column_schemas": [{"name": name, "data_type": kind} for name, kind in columns]}
    return {"records": {"schema": schema, "rows": rows, "total_rows": len(rows)}}


def _plain_values(column: "pa.ChunkedArray[Any]") -> list[Any]:
    kind = column.type
    if isinstance(kind, pa.TimestampType | pa.DurationType | pa.Time64Type):
        return column.cast(pa.int64()).to_pylist()
    if isinstance(kind, pa.Time32Type):
        return column.cast(pa.int32()).to_pylist()
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(kind):
        return [v if v is None or math.isfinite(v) else None for v in values]
    if str(kind) in _SIMPLE and not pa.types.is_binary(kind) and _SIMPLE[str(kind)] != "Date":
        return values if _SIMPLE[str(kind)] != "IntervalMonthDayNano" else [v and str(v) for v in values]
    return [_json_value(v) for v in values]


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_json_value(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json_value(v) for k, v in value.items()}
    return str(value)


def affected(rows: int) -> dict[str, Any]:
    """The outcome of a statement that changes something, as an element of `output`."""
    return {"affectedrows": rows}


def listing(name: str, values: Sequence[str]) -> dict[str, Any]:
    """One column of names."""
    return _records([(name, "String")], [[v] for v in values])


_TYPE_NAMES = {
    "string": "String", "float64": "Float64", "int64": "Int64", "uint64": "UInt64", "bool": "Boolean",
    "timestamp_ns": "TimestampNanosecond",
}  # fmt: skip


def description(table: TableInfo) -> dict[str, Any]:
    """DESCRIBE TABLE."""
    names = ("Column", "Type", "Key", "Null", "Default", "Semantic Type")
    semantic = {Role.TAG: "TAG", Role.TIME: "TIMESTAMP", Role.FIELD: "FIELD"}
    rows = [
        [
            column.name,
            _TYPE_NAMES[column.type],
            "" if column.role is Role.FIELD else "PRI",
            "YES" if column.role is Role.FIELD else "NO",
            "",
            semantic[column.role],
        ]
        for column in table.schema.columns
    ]
    return _records([(name, "String") for name in names], rows)


def success(output: Sequence[dict[str, Any]], took_ms: float) -> bytes:
    """The whole body of an answer."""
    return msgspec.json.encode({"output": output, "execution_time_ms": int(took_ms)})


def failure(code: Code, message: str, took_ms: float) -> bytes:
    """The whole body of a refusal."""
    return msgspec.json.encode({"code": int(code), "error": message, "execution_time_ms": int(took_ms)})
