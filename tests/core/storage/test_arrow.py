"""Batches without schemas: encode, decode, widen, splice."""

import pyarrow as pa
import pytest

from groundwork.core.arrow import (
    arrow_schema,
    check_batch,
    decode_batch,
    decode_spliced,
    encode_batch,
    widen,
    widen_table,
)
from groundwork.core.errors import BadInput, Damaged
from groundwork.core.table import Column, Role, Schema

SCHEMA = Schema(
    2,
    (
        Column("host", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        Column("load", "float64", Role.FIELD),
        Column("up", "bool", Role.FIELD, 2),
        Column("count", "int64", Role.FIELD, 2),
    ),
)
OLD = arrow_schema(SCHEMA.at(1))
NEW = arrow_schema(SCHEMA)


def _batch(n: int, first: int = 0) -> pa.RecordBatch:
    rows = range(first, first + n)
    columns = [[f"h{i % 3}" for i in rows], list(rows), [i / 2 if i % 5 else None for i in rows]]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, OLD, strict=True)], schema=OLD)


@pytest.mark.parametrize("rows", [0, 1, 10, 1000])
def test_a_batch_comes_back_without_its_schema(rows: int) -> None:
    """The message holds the rows only; the schema comes from elsewhere."""
    assert decode_batch(encode_batch(_batch(rows)), OLD).equals(_batch(rows))


def test_many_batches_in_one_read_are_the_same_as_one_by_one() -> None:
    """Splicing is a matter of speed only: the same rows, in the same order, batch by batch."""
    batches = [_batch(n, n * 10) for n in (3, 1, 0, 20)]
    table = decode_spliced([memoryview(encode_batch(b)) for b in batches], OLD)
    assert table.equals(pa.Table.from_batches(batches, schema=OLD))
    assert decode_spliced([], OLD).num_rows == 0


def test_an_older_batch_is_padded_with_nulls() -> None:
    """Columns are only appended, so a batch of schema version 1 is a prefix of version 2."""
    wide = widen(_batch(4), NEW)
    assert wide.schema == NEW
    assert wide.column("up").null_count == 4
    assert wide.select(OLD.names).equals(_batch(4))
    assert widen(wide, NEW) is wide
    table = widen_table(pa.Table.from_batches([_batch(4), _batch(2)]), NEW)
    assert table.schema == NEW
    assert table.num_rows == 6


@pytest.mark.parametrize("cut", [0, 7, 100, -8])
def test_damage_is_typed(cut: int) -> None:
    """A cut message raises Damaged, alone and spliced."""
    raw = encode_batch(_batch(10))[:cut]
    with pytest.raises(Damaged):
        decode_batch(raw, OLD)
    if cut > 0:
        with pytest.raises(Damaged):
            decode_spliced([raw], OLD)


def test_a_clients_batch_is_looked_at_before_it_reaches_a_lane() -> None:
    """Wrong rows, a wrong schema and text that is not UTF-8 are refused with BadInput."""
    raw = encode_batch(_batch(3))
    assert check_batch(raw, OLD, 3).num_rows == 3
    with pytest.raises(BadInput, match="rows"):
        check_batch(raw, OLD, 4)
    with pytest.raises(BadInput):
        check_batch(raw, NEW, 3)
    with pytest.raises(BadInput, match="follow"):
        check_batch(raw + raw, OLD, 3)
    with pytest.raises(Damaged, match="2 messages hold 3"):
        decode_spliced([raw + raw, raw], OLD)
    with pytest.raises(BadInput):
        check_batch(raw.replace(b"h0h1h2", b"h0\xff\xfeh2"), OLD, 3)
