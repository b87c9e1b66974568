"""(epoch, sequence) orders writes, by either way of sorting: packed into one integer, and where that does not fit."""

import pyarrow as pa
import pytest

from datanode_agent.engine.memtable import Live, stack
from datanode_agent.engine.merge import last_writes
from groundwork.core.arrow import arrow_schema
from groundwork.core.table import Column, Role, Schema

SCHEMA = Schema(
    1,
    (Column("host", "string", Role.TAG), Column("ts", "timestamp_ns", Role.TIME), Column("v", "int64", Role.FIELD)),
)
NARROW, WIDE = (1, 2), (-(1 << 62), 1 << 62)


@pytest.mark.parametrize("times", [NARROW, WIDE], ids=["packed", "wide"])
@pytest.mark.parametrize("newest_first", [True, False])
def test_hole10_a_higher_epoch_wins_over_a_higher_sequence(times: tuple[int, int], newest_first: bool) -> None:
    """HOLES 10: epoch 2 began its sequence anew; its rows win, whether they are stacked before or behind the older."""
    told = arrow_schema(SCHEMA)

    def write(epoch: int, sequence: int, value: int) -> Live:
        columns = [["h", "h"], list(times), [value, value]]
        arrays = [pa.array(c, type=field.type) for c, field in zip(columns, told, strict=True)]
        return Live(pa.RecordBatch.from_arrays(arrays, schema=told), epoch, sequence, 1)

    parts = [write(1, 1, 10), write(1, 50, 11), write(2, 1, 20), write(2, 3, 21)]
    merged = last_writes(stack(parts[::-1] if newest_first else parts, SCHEMA), SCHEMA)
    assert merged["v"].to_pylist() == [21, 21]
