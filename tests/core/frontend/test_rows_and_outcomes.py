"""From lines to the batches of regions, and what an answer means for the next attempt."""

import numpy as np
import pyarrow as pa
import pytest

from groundwork.core.arrow import arrow_schema, check_batch
from groundwork.core.table import Column, Role, Schema, TableInfo
from metasrv_frontend.core import rows as rows_module
from metasrv_frontend.core.line_protocol import parse_lines
from metasrv_frontend.core.line_values import BadLine
from metasrv_frontend.core.outcomes import AFTER, Refusal, Then, pause_ms, refusal_of, telling
from metasrv_frontend.core.rows import columns_for, new_fields, padded, partitions_of_batch, pieces_of_lines
from protos.datanode.v1 import datanode_pb2 as wire


def table(columns: tuple[Column, ...], regions: int = 1, partition_columns: tuple[str, ...] = ()) -> TableInfo:
    """A table of these columns."""
    return TableInfo(7, "m", Schema(1, columns), partition_columns, tuple(7 << 32 | i for i in range(regions)))


BODY = b"""m,host=a,dc=x v=1,n=2i 1
m,host=b v=2 2
m,host=a,dc=x s="t" 3
m,host=c,dc=y v=4,n=5i,s="u" 4
"""


def test_columns_of_a_first_write() -> None:
    """Tags, time, fields, each with its type."""
    columns = columns_for(parse_lines(BODY)["m"], "greptime_timestamp")
    assert [(c.name, c.type, c.role) for c in columns] == [
        ("host", "string", Role.TAG),
        ("dc", "string", Role.TAG),
        ("greptime_timestamp", "timestamp_ns", Role.TIME),
        ("v", "float64", Role.FIELD),
        ("n", "int64", Role.FIELD),
        ("s", "string", Role.FIELD),
    ]


@pytest.mark.parametrize("regions", [1, 3])
def test_every_row_once_and_where_its_key_says(regions: int) -> None:
    """Each region's batch decodes under the table's schema; absent tags are '', absent fields null."""
    lines = parse_lines(BODY)["m"]
    info = table(columns_for(lines, "ts"), regions, ("host",))
    found = {}
    for region_id, pieces in pieces_of_lines(info, lines).items():
        for piece in pieces:
            batch = check_batch(piece.batch, arrow_schema(info.schema), piece.rows)
            times = batch.column("ts").cast(pa.int64()).to_pylist()
            assert times == sorted(times)
            rows = batch.drop_columns(["ts"]).to_pylist()
            for time, row in zip(times, rows, strict=True):
                assert info.region_of(row) == region_id == piece.region_id
                found[time] = tuple(row.values())
    assert found == {
        1: ("a", "x", 1.0, 2, None),
        2: ("b", "", 2.0, None, None),
        3: ("a", "x", None, None, "t"),
        4: ("c", "y", 4.0, 5, "u"),
    }


def test_partitions_by_row_and_by_series_agree() -> None:
    """INSERT and line protocol lead a key to one region."""
    lines = parse_lines(BODY)["m"]
    info = table(columns_for(lines, "ts"), 5)
    whole = rows_module.record_batch(info, lines)
    by_row = partitions_of_batch(info, whole)
    for i, series in enumerate(lines.row_series):
        tags = {"host": "", "dc": "", **lines.series[series]}
        assert info.region_ids[by_row[i]] == info.region_of(tags)


def test_big_batches_are_cut_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece is much over the limit, and the pieces are the rows in order."""
    monkeypatch.setattr(rows_module, "PIECE_BYTES_MAX", 1_000)
    lines = parse_lines(b"\n".join(b"m,t=a v=%d %d" % (i, i) for i in range(500)))["m"]
    info = table(columns_for(lines, "ts"))
    [pieces] = pieces_of_lines(info, lines).values()
    assert len(pieces) > 5
    values = [
        v
        for piece in pieces
        for v in check_batch(piece.batch, arrow_schema(info.schema), piece.rows).column("v").to_pylist()
    ]
    assert values == [float(i) for i in range(500)]


def test_widening_and_conflicts() -> None:
    """Only fields are added; what is refused names the line that has it first."""
    lines = parse_lines(BODY)["m"]
    columns = columns_for(lines, "ts")
    assert new_fields(table(columns), lines) == ()
    assert new_fields(table(columns[:4]), lines) == (
        Column("n", "int64", Role.FIELD),
        Column("s", "string", Role.FIELD),
    )
    with pytest.raises(BadLine, match=r"line 1.*no tag 'dc'") as caught:
        new_fields(table((columns[0], *columns[2:])), lines)
    assert caught.value.line == 1
    changed = (*columns[:3], Column("v", "int64", Role.FIELD), *columns[4:])
    with pytest.raises(BadLine, match=r"field type conflict: 'v' of table 'm' is int64, and this line has float64"):
        new_fields(table(changed), lines)
    with pytest.raises(BadLine, match="name of the time column"):
        columns_for(lines, "v")


def test_padding_shares_memory() -> None:
    """Columns that were not read are nulls, and cost nothing for each batch."""
    schema = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c", pa.string())])
    batch = pa.RecordBatch.from_arrays([pa.array(np.arange(1_000))], names=["a"])
    before = pa.total_allocated_bytes()
    kept = [padded(batch, schema) for _ in range(50)]
    assert pa.total_allocated_bytes() - before < 100_000
    assert kept[0].num_rows == 1_000
    assert kept[0].column("b").null_count == 1_000
    assert padded(batch.slice(0, 0), schema).num_rows == 0


def test_every_outcome_has_a_meaning() -> None:
    """A value of the protocol that is new here, or unknown, is met with a newer route, never with success."""
    assert set(AFTER) == set(wire.Outcome.values()) - {wire.OUTCOME_UNSPECIFIED}
    assert refusal_of(wire.RegionOutcome(outcome=wire.DONE)) is None
    for value in (0, 99):
        outcome = wire.RegionOutcome()
        outcome.MergeFromString(b"\x10" + bytes([value]))
        refusal = refusal_of(outcome)
        assert refusal is not None
        assert refusal.then is Then.NEWER_ROUTE


def test_pauses_grow_and_are_bounded() -> None:
    """From ten milliseconds to half a second; a node that asks for more gets it."""
    assert [pause_ms(n, 0) for n in (0, 1, 2, 5, 6, 1_000)] == [10, 20, 40, 320, 500, 500]
    assert pause_ms(0, 1_234) == 1_234


def test_what_the_deadline_cut_tells_the_refusal_before_it() -> None:
    """No answer when the time is up says nothing new; no answer before that, or at first, is all that is known."""
    before = Refusal("NO_LEASE", Then.NEWER_ROUTE, "no lease")
    cut = Refusal("NO_ANSWER", Then.NEWER_ROUTE, "not in time")
    other = Refusal("STOPPED", Then.NEWER_ROUTE, "stopped")
    assert telling(before, cut, 1, 0.0) is before
    assert telling(before, cut, 1, -3.0) is before
    assert telling(before, cut, 1, 1_000.0) is cut
    assert telling(before, cut, 0, 0.0) is cut
    assert telling(before, other, 1, 0.0) is other
