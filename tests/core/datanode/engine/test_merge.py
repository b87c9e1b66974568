"""Merging by (epoch, sequence), against a dictionary, through memtables and Parquet."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from datanode_agent.engine.memtable import Live, stack
from datanode_agent.engine.merge import EPOCH, SEQUENCE, last_writes
from datanode_agent.engine.sst import read_sst, write_sst
from groundwork.core.arrow import arrow_schema
from groundwork.core.table import Column, Role, Schema

SCHEMA = Schema(
    1,
    (
        Column("a", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        Column("b", "string", Role.TAG),
        Column("v", "int64", Role.FIELD),
    ),
)
names = st.sampled_from(["", "x", "y", "zz"])
stamps = st.sampled_from([-(1 << 62), -1, 0, 1, 1 << 62])
batch = st.tuples(st.integers(1, 3), st.lists(st.tuples(names, stamps, names), min_size=1, max_size=5))


@given(st.lists(batch, min_size=1, max_size=12))
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
def test_the_last_write_wins(batches: list[tuple[int, list[tuple[str, int, str]]]]) -> None:
    """Whatever the order in which batches arrive, the highest (epoch, sequence) of each key and time is kept."""
    told, best, parts, sequence = arrow_schema(SCHEMA), dict[tuple[str, int, str], tuple[int, int, int]](), [], 0
    for epoch, rows in batches:
        values = [sequence + 1 + i for i in range(len(rows))]
        for row, value in zip(rows, values, strict=True):
            best[row] = max(best.get(row, (0, 0, 0)), (epoch, value, value))
        columns = [
            pa.array([row[n] for row in rows] if n < 3 else values, type=field.type) for n, field in enumerate(told)
        ]
        parts.append(Live(pa.RecordBatch.from_arrays(columns, schema=told), epoch, sequence + 1, 1))
        sequence += len(rows)
    merged = last_writes(stack(parts, SCHEMA), SCHEMA)
    body, stats = write_sst(merged, SCHEMA, "key", 3, 0)
    for table in (merged, read_sst(body, SCHEMA, ["a", "ts", "b", "v"], "key")):
        rows = zip(
            table["a"].to_pylist(), table["ts"].cast(pa.int64()).to_pylist(), table["b"].to_pylist(),
            table[EPOCH].to_pylist(), table[SEQUENCE].to_pylist(), table["v"].to_pylist(), strict=True,
        )  # fmt: skip
        got = [((a, ts, b), (epoch, order, v)) for a, ts, b, epoch, order, v in rows]
        assert dict(got) == best and len(got) == len(best)
        assert [(k[0], k[2], k[1]) for k, _ in got] == sorted((k[0], k[2], k[1]) for k in best)
    assert stats.rows == len(best) and stats.max_order == max(v[:2] for v in best.values())
