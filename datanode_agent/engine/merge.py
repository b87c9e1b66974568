"""Rows of several sources as one table where the last write of each key and time has won.

A key is the tags; the order of writes is (epoch, sequence), which every row carries in two columns of its own, here
and in SSTs. The work is done on packed integer keys: tags become ranks, and one stable sort does the rest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundwork.core.arrow import arrow_schema
from groundwork.core.table import RESERVED_PREFIX, Role, Schema

EPOCH = f"{RESERVED_PREFIX}epoch"
SEQUENCE = f"{RESERVED_PREFIX}sequence"
_ORDER_FIELDS = [pa.field(EPOCH, pa.uint64()), pa.field(SEQUENCE, pa.uint64())]
_KEY_BITS_MAX = 62

Ints = NDArray[np.int64]


def stored_schema(schema: Schema) -> pa.Schema:
    """The table's columns, then the order of each row: how memtables and SSTs look."""
    return pa.schema([*arrow_schema(schema), *_ORDER_FIELDS])


def conform(table: pa.Table, schema: Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The table with these columns of the schema (all of them), those that it lacks null, or "" for a tag."""
    names = list(columns) if columns is not None else [c.name for c in schema.columns]
    fields: list[pa.Field[Any]] = []
    arrays: list[Any] = []
    for name in names:
        column = schema.column(name)
        if column is None:
            continue
        field = arrow_schema(schema).field(name)
        present = name in table.column_names
        if present:
            array = table.column(name)
            if column.role is Role.TAG and array.null_count:
                array = array.fill_null(pa.scalar("", pa.string()))
        elif column.role is Role.TAG:
            array = pa.chunked_array([pa.repeat(pa.scalar("", pa.string()), table.num_rows)])
        else:
            array = pa.chunked_array([pa.nulls(table.num_rows, field.type)], type=field.type)
        fields.append(field)
        arrays.append(array)
    for field in _ORDER_FIELDS:
        if field.name in table.column_names:
            fields.append(field)
            arrays.append(table.column(field.name))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def with_order(table: pa.Table, epochs: Ints, sequences: Ints, rows: Ints) -> pa.Table:
    """Append the order columns: batch i has `rows[i]` rows, under `epochs[i]`, from `sequences[i]` on."""
    starts = np.repeat(np.cumsum(rows) - rows, rows)
    within_batch = np.arange(int(rows.sum()), dtype=np.int64) - starts
    table = table.append_column(_ORDER_FIELDS[0], pa.array(np.repeat(epochs, rows).astype(np.uint64)))
    return table.append_column(
        _ORDER_FIELDS[1], pa.array((np.repeat(sequences, rows) + within_batch).astype(np.uint64))
    )


def times(table: pa.Table, schema: Schema) -> Ints:
    """The time column in nanoseconds."""
    return np.asarray(table.column(schema.time.name).cast(pa.int64()).to_numpy(), dtype=np.int64)


def in_range(table: pa.Table, schema: Schema, from_ns: int, to_ns: int) -> pa.Table:
    """The rows in [from_ns, to_ns); both 0: all of time."""
    if from_ns == 0 and to_ns == 0:
        return table
    stamps = times(table, schema)
    inside = (stamps >= from_ns) & (stamps < to_ns)
    return table if bool(inside.all()) else table.filter(pa.array(inside))


def last_writes(table: pa.Table, schema: Schema) -> pa.Table:
    """One row per key and time, the last by (epoch, sequence); sorted by the tags, then time."""
    if table.num_rows == 0:
        return table
    table = table.combine_chunks()
    series = _series(table, schema)
    stamps = times(table, schema)
    order, same = _sorted(table, series, stamps)
    last = np.append(~same, True)
    kept = order[last]
    if len(kept) == table.num_rows and bool((np.diff(kept) == 1).all()):
        return table
    return table.take(pa.array(kept))


def _sorted(table: pa.Table, series: Ints, stamps: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The rows' sorted places, and whether each but the last has the key and time of the one behind it."""
    epochs = table.column(EPOCH).to_numpy()
    sequences = table.column(SEQUENCE).to_numpy()
    lowest, most = int(stamps.min()), int(stamps.max())
    bits = max(1, (most - lowest).bit_length())
    arrived_in_order = bool(
        ((epochs[1:] > epochs[:-1]) | ((epochs[1:] == epochs[:-1]) & (sequences[1:] >= sequences[:-1]))).all()
    )
    if bits + int(series.max()).bit_length() <= _KEY_BITS_MAX:
        key = (series << bits) | (stamps - lowest)
        order = np.argsort(key, kind="stable") if arrived_in_order else np.lexsort((sequences, epochs, key))
        placed = key[order]
        return order, placed[1:] == placed[:-1]
    keys = (stamps, series) if arrived_in_order else (sequences, epochs, stamps, series)
    order = np.lexsort(keys)
    a, b = series[order], stamps[order]
    return order, (a[1:] == a[:-1]) & (b[1:] == b[:-1])


def _series(table: pa.Table, schema: Schema) -> Ints:
    """A number per row that is equal for equal tags, and orders as they do."""
    series: Ints = np.zeros(table.num_rows, dtype=np.int64)
    for tag in schema.tags:
        column = table.column(tag.name)
        encoded = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(encoded, pa.ChunkedArray):
            encoded = pa.concat_arrays(encoded.chunks)
        dictionary: Any = encoded.dictionary_encode()
        values = dictionary.dictionary
        ranks = np.empty(max(1, len(values)), dtype=np.int64)
        ranks[pc.sort_indices(values).to_numpy()] = np.arange(len(values))
        codes = ranks[dictionary.indices.to_numpy(zero_copy_only=False)]
        if int(series.max()).bit_length() + len(values).bit_length() > _KEY_BITS_MAX:
            series = np.asarray(np.unique(series, return_inverse=True)[1], dtype=np.int64)
        series = series * max(1, len(values)) + codes
    return series
