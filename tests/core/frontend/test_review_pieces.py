"""Rows of very different sizes, and rows that are too big."""

import pyarrow as pa
import pytest

from groundwork.core.arrow import arrow_schema, check_batch
from groundwork.core.errors import BadInput
from groundwork.core.table import Column, Role, Schema, TableInfo
from metasrv_frontend.core import rows as rows_module
from metasrv_frontend.core.line_protocol import parse_lines
from metasrv_frontend.core.rows import columns_for, pieces_of_lines


def test_no_piece_is_over_the_limit_where_some_rows_are_far_bigger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece above what a datanode takes is refused for good, however often the body is sent again."""
    monkeypatch.setattr(rows_module, "PIECE_BYTES_MAX", 4_000)
    small = [b'm v=%d,s="" %d' % (i, i) for i in range(600)]
    big = [b'm v=%d,s="%s" %d' % (i, b"x" * 600, i) for i in range(600, 640)]
    lines = parse_lines(b"\n".join(small + big))["m"]
    info = TableInfo(7, "m", Schema(1, columns_for(lines, "ts")), (), (7 << 32,))
    [pieces] = pieces_of_lines(info, lines).values()
    assert max(len(piece.batch) for piece in pieces) <= 4_000
    read = [check_batch(piece.batch, arrow_schema(info.schema), piece.rows) for piece in pieces]
    assert [v for batch in read for v in batch.column("v").to_pylist()] == [float(i) for i in range(640)]


def test_a_row_that_no_entry_can_hold_is_the_clients_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before any row leaves, and not that the same body can be sent again."""
    monkeypatch.setattr(rows_module, "PIECE_BYTES_MAX", 1_000)
    monkeypatch.setattr(rows_module, "ENTRY_BYTES_MAX", 2_000)
    lines = parse_lines(b'm v=1 1\nm s="%s" 2' % (b"x" * 3_000))["m"]
    info = TableInfo(7, "m", Schema(1, columns_for(lines, "ts")), (), (7 << 32,))
    with pytest.raises(BadInput, match="nothing of this request was applied"):
        pieces_of_lines(info, lines)


def test_nothing_of_a_big_body_is_kept_when_it_is_written() -> None:
    """The nulls of fields that its lines do not have were kept for the next such body: hundreds of MB, for good."""
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    body = b"m a=1\nm b=1\nm c=1i\nm d=1u\n" + b"m e=1\n" * 100_000
    lines = parse_lines(body)["m"]
    info = TableInfo(7, "m", Schema(1, (*columns_for(lines, "ts"), Column("f", "string", Role.FIELD))), (), (7 << 32,))
    [pieces] = pieces_of_lines(info, lines).values()
    assert sum(piece.rows for piece in pieces) == 100_004
    del pieces
    assert pa.total_allocated_bytes() - before < 100_000
