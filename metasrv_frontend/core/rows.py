"""From the parsed lines of one table to Arrow batches, one list a region.

An absent tag is the empty string, an absent field is null. Rows keep the order of their lines, so of two rows with
the same key and time the later line wins.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from groundwork.core.arrow import arrow_schema, encode_batch
from groundwork.core.entry import ENTRY_BYTES_MAX
from groundwork.core.errors import BadInput
from groundwork.core.table import Column, Role, TableInfo
from metasrv_frontend.core.line_protocol import TableLines
from metasrv_frontend.core.line_values import BadLine

# One write of one region: well below the message limit, so that a lane's group commit stays a reasonable object.
PIECE_BYTES_MAX = 4 << 20
NULLS_KEPT_MAX = 1 << 16  # so many are kept of each type, for the batches of queries and of ordinary bodies
FEW_ROWS = 64  # a list is quicker than the compute library up to here


class Piece(NamedTuple):
    """Rows of one region, encoded: what one write to it carries."""

    region_id: int
    rows: int
    schema_version: int
    batch: bytes


def columns_for(lines: TableLines, time_column: str) -> tuple[Column, ...]:
    """The columns of a table that is made by its first write: tags, time, fields."""
    check_time_name(lines, time_column)
    tags = [Column(name, "string", Role.TAG) for name in lines.tag_lines]
    fields = [Column(f.name, f.type, Role.FIELD) for f in lines.fields.values()]
    return (*tags, Column(time_column, "timestamp_ns", Role.TIME), *fields)


def check_time_name(lines: TableLines, time_column: str) -> None:
    """Raise BadLine where a tag or field has the name of the time column."""
    number = lines.tag_lines.get(time_column)
    field = lines.fields.get(time_column)
    if number is None and field is not None:
        number = field.line
    if number is not None:
        raise BadLine(number, f"{time_column!r} is the name of the time column of table {lines.name!r}")


def new_fields(table: TableInfo, lines: TableLines) -> tuple[Column, ...]:
    """The fields that the table must be widened by. Raises BadLine for a new tag or a changed type.

    A new tag would change the key of every row, and so where rows are: it is refused, never guessed.
    """
    schema = table.schema
    check_time_name(lines, schema.time.name)
    known = {c.name: c for c in schema.columns}
    for tag, number in lines.tag_lines.items():
        column = known.get(tag)
        if column is None:
            names = ", ".join(c.name for c in schema.tags) or "none"
            raise BadLine(number, f"table {table.name!r} has no tag {tag!r} (its tags: {names}), and tags are fixed")
        if column.role is not Role.TAG:
            raise BadLine(number, f"{tag!r} of table {table.name!r} is a field of type {column.type}, not a tag")
    added = []
    for field in lines.fields.values():
        column = known.get(field.name)
        if column is None:
            added.append(Column(field.name, field.type, Role.FIELD))
        elif column.role is not Role.FIELD:
            raise BadLine(field.line, f"{field.name!r} of table {table.name!r} is a tag, not a field")
        elif column.type != field.type:
            raise BadLine(
                field.line,
                f"field type conflict: {field.name!r} of table {table.name!r} is {column.type}, "
                f"and this line has {field.type}",
            )
    return tuple(added)


def record_batch(table: TableInfo, lines: TableLines) -> pa.RecordBatch:
    """All rows as one batch in the order of the table's schema. Every column of `lines` must be in it."""
    rows = len(lines.row_series)
    series = np.asarray(lines.row_series, dtype=np.int64) if rows > FEW_ROWS else None
    arrays: list[pa.Array[Any]] = []
    schema = arrow_schema(table.schema)
    for column, kind in zip(table.schema.columns, schema.types, strict=True):
        if column.role is Role.TAG:
            values = [tags.get(column.name, "") for tags in lines.series]
            if series is None:
                arrays.append(pa.array([values[n] for n in lines.row_series], kind))
            else:
                arrays.append(pa.array(values, kind).take(series))
        elif column.role is Role.TIME:
            arrays.append(pa.array(np.asarray(lines.times_ns, dtype=np.int64)).view(kind))
        elif column.name in lines.fields:
            arrays.append(pa.array(lines.fields[column.name].values, kind))
        else:
            arrays.append(_nulls(kind, rows))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def split(
    table: TableInfo, batch: pa.RecordBatch, region_of_row: npt.NDArray[np.int64] | None
) -> dict[int, list[Piece]]:
    """The pieces of each region, in order. `region_of_row` holds partition numbers; None: the table has one region."""
    if region_of_row is None or len(table.region_ids) == 1:
        return {table.region_ids[0]: _pieces(table, table.region_ids[0], batch)}
    pieces = {}
    for partition in np.unique(region_of_row).tolist():
        rows = np.flatnonzero(region_of_row == partition)
        region_id = table.region_ids[partition]
        pieces[region_id] = _pieces(table, region_id, batch.take(rows))
    return pieces


def pieces_of_lines(table: TableInfo, lines: TableLines) -> dict[int, list[Piece]]:
    """The pieces of each region that these lines touch."""
    batch = record_batch(table, lines)
    if len(table.region_ids) == 1:
        return split(table, batch, None)
    places = {region_id: partition for partition, region_id in enumerate(table.region_ids)}
    of_series = np.asarray([places[table.region_of(tags)] for tags in lines.series], dtype=np.int64)
    return split(table, batch, of_series[np.asarray(lines.row_series, dtype=np.int64)])


def partitions_of_batch(table: TableInfo, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """The partition number of every row, by its tags."""
    names = table.partition_columns or tuple(c.name for c in table.schema.tags)
    columns = [batch.column(name).to_pylist() for name in names]
    places = {region_id: partition for partition, region_id in enumerate(table.region_ids)}
    keys = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
    known: dict[tuple[Any, ...], int] = {}
    found = np.empty(batch.num_rows, dtype=np.int64)
    for row, key in enumerate(keys):
        place = known.get(key)
        if place is None:
            place = known[key] = places[table.region_of(dict(zip(names, key, strict=True)))]
        found[row] = place
    return found


def _pieces(table: TableInfo, region_id: int, batch: pa.RecordBatch) -> list[Piece]:
    """Raises BadInput for a row that no entry can hold."""
    whole = encode_batch(batch)
    if len(whole) <= PIECE_BYTES_MAX or batch.num_rows == 1:
        if len(whole) > ENTRY_BYTES_MAX:
            raise BadInput(
                f"table {table.name!r}",
                f"a row of {len(whole)} bytes; at most {ENTRY_BYTES_MAX}; nothing of this request was applied",
            )
        return [Piece(region_id, batch.num_rows, table.schema.version, whole)] if batch.num_rows else []
    step = -(-batch.num_rows // -(-len(whole) // PIECE_BYTES_MAX))
    # Where some rows are far bigger than others, a part is split again.
    parts = (_pieces(table, region_id, batch.slice(start, step)) for start in range(0, batch.num_rows, step))
    return [piece for part in parts for piece in part]


def padded(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with every column of the table, those that were not read as nulls that share their memory.

    The engine plans with the whole schema; a column that it does not read is never looked at.
    """
    present = {name: i for i, name in enumerate(batch.schema.names)}
    arrays = []
    for field in schema:
        if field.name in present:
            column = batch.column(present[field.name])
            arrays.append(column if column.type == field.type else column.cast(field.type))
        else:
            arrays.append(_nulls(field.type, batch.num_rows))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _nulls(kind: pa.DataType, rows: int) -> "pa.Array[Any]":
    if rows > NULLS_KEPT_MAX:
        return _made_nulls(kind, rows)  # with the batch they go: one big body must not cost memory for ever
    return _many_nulls(kind, 1 << max(0, rows - 1).bit_length()).slice(0, rows)


def _made_nulls(kind: pa.DataType, rows: int) -> "pa.Array[Any]":
    return pa.array([None], kind).take(np.zeros(rows, dtype=np.int64))


@functools.lru_cache(maxsize=32)
def _many_nulls(kind: pa.DataType, rows: int) -> "pa.Array[Any]":
    return _made_nulls(kind, rows)
