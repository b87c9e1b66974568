"""A memtable: rows in lane order, as they came, merged only when somebody reads.

Rows that a replay found stay undecoded until then, so a region may serve before its old batches are looked at.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datanode_agent.core.replay import Damage, Row
from datanode_agent.engine.merge import conform, stored_schema, with_order
from groundwork.core.arrow import arrow_schema, decode_spliced
from groundwork.core.errors import Damaged
from groundwork.core.table import Schema


class Live(NamedTuple):
    """One write of this process: its batch looks into the bytes that the client sent."""

    batch: pa.RecordBatch
    epoch: int
    sequence: int
    schema_version: int


class Replayed:
    """Entries read back from a lane, decoded together at the first use (any thread may do it)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows: Sequence[Row] | None = rows
        self._table: pa.Table | None = None

    def table(self, schema: Schema) -> pa.Table:
        """All of it, in the columns of `schema`, with the order of each row. Raises Damaged."""
        rows, table = self._rows, self._table
        if table is None:
            if not rows:
                return stored_schema(schema).empty_table()
            table = pa.concat_tables(
                [_decode(list(run), schema) for _, run in groupby(rows, lambda r: r.schema_version)]
            )
            self._table, self._rows = table, None
        return conform(table, schema)


Part = Live | Replayed


def readable(rows: list[Row], schema: Schema) -> tuple[list[Row], list[Damage]]:
    """Those that can be decoded, and what is lost with the others: for a region whose loss is accepted."""
    kept: list[Row] = []
    lost: list[Damage] = []
    for row in rows:
        try:
            Replayed([row]).table(schema)
        except Damaged as error:
            lost.append(Damage(row.position, str(error)))
        else:
            kept.append(row)
    return kept, lost


class Frozen(NamedTuple):
    """Parts that no longer change, and the position below which all of the region's entries are in them or in SSTs."""

    parts: Sequence[Part]
    size_bytes: int
    covered: int
    first_ms: float | None


class Memtable:
    """See the module docstring. Filled on the loop, read anywhere by a snapshot of its parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.size_bytes = 0
        self.first_ms: float | None = None  # when its oldest row came

    def add(self, part: Part, size_bytes: int, now_ms: float) -> None:
        """Take rows; they order after what is here by their own (epoch, sequence) only."""
        self.parts.append(part)
        self.size_bytes += size_bytes
        if self.first_ms is None:
            self.first_ms = now_ms

    def freeze(self, covered: int) -> Frozen:
        """Hand over what is here and start empty."""
        frozen = Frozen(self.parts, self.size_bytes, covered, self.first_ms)
        self.parts, self.size_bytes, self.first_ms = [], 0, None
        return frozen

    def put_back(self, frozen: Frozen) -> None:
        """A flush came to nothing: its parts are the oldest again."""
        self.parts = [*frozen.parts, *self.parts]
        self.size_bytes += frozen.size_bytes
        known = [ms for ms in (self.first_ms, frozen.first_ms) if ms is not None]
        self.first_ms = min(known) if known else None


def stack(parts: Sequence[Part], schema: Schema) -> pa.Table:
    """The parts as one table in the columns of `schema`, in the order in which they came."""
    tables: list[pa.Table] = []
    for kind, run in groupby(parts, lambda p: p.schema_version if isinstance(p, Live) else -1):
        if kind == -1:
            tables += [p.table(schema) for p in run if isinstance(p, Replayed)]
        else:
            tables.append(_stack_live([p for p in run if isinstance(p, Live)], schema))
    return pa.concat_tables(tables) if tables else stored_schema(schema).empty_table()


def _stack_live(parts: Sequence[Live], schema: Schema) -> pa.Table:
    table = pa.Table.from_batches([p.batch for p in parts])
    table = with_order(
        table,
        np.array([p.epoch for p in parts], dtype=np.int64),
        np.array([p.sequence for p in parts], dtype=np.int64),
        np.array([p.batch.num_rows for p in parts], dtype=np.int64),
    )
    return conform(table, schema)


def _decode(rows: Sequence[Row], schema: Schema) -> pa.Table:
    table = decode_spliced([r.payload for r in rows], arrow_schema(schema.at(rows[0].schema_version)))
    table = with_order(
        table,
        np.array([r.epoch for r in rows], dtype=np.int64),
        np.array([r.sequence for r in rows], dtype=np.int64),
        np.array([r.rows for r in rows], dtype=np.int64),
    )
    return conform(table, schema)
