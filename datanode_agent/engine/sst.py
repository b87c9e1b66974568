"""SSTs: Parquet files of rows sorted by tags and time, each with its order, readable by any engine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datanode_agent.engine.merge import EPOCH, SEQUENCE, conform, times
from groundwork.core.errors import Damaged
from groundwork.core.manifest import Sst
from groundwork.core.table import Schema

ROW_GROUP_ROWS = 1 << 17
# A per-column choice that costs a third less space for the same time: see docs/regions.md.
_DELTA = "DELTA_BINARY_PACKED"


def write_sst(table: pa.Table, schema: Schema, key: str, epoch: int, level: int) -> tuple[bytes, Sst]:
    """The file's bytes, and the statistics that the manifest keeps. `table` is sorted and has no row twice."""
    sink = pa.BufferOutputStream()
    options: Any = {
        "use_dictionary": [c.name for c in schema.tags],
        "use_byte_stream_split": [c.name for c in schema.columns if c.type == "float64"],
        "column_encoding": {schema.time.name: _DELTA, EPOCH: _DELTA, SEQUENCE: _DELTA},
    }
    pq.write_table(table, sink, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS, **options)
    body = sink.getvalue().to_pybytes()
    stamps = times(table, schema)
    lowest, highest = _orders(table)
    stats = Sst(
        key=key, rows=table.num_rows, bytes=len(body), min_ts=int(stamps.min()), max_ts=int(stamps.max()),
        min_order=lowest, max_order=highest, level=level, epoch=epoch,
    )  # fmt: skip
    return body, stats


def read_sst(body: bytes, schema: Schema, columns: Sequence[str], key: str) -> pa.Table:
    """These columns and the order, in the types of `schema`; what the file is older than is null. Raises Damaged."""
    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        present = set(file.schema_arrow.names)
        wanted = [name for name in [*columns, EPOCH, SEQUENCE] if name in present]
        table: Any = file.read(columns=wanted, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise Damaged(f"{key} is not a readable SST: {error}") from error
    return conform(table, schema, columns)


def _orders(table: pa.Table) -> tuple[tuple[int, int], tuple[int, int]]:
    epochs, sequences = table.column(EPOCH).to_numpy(), table.column(SEQUENCE).to_numpy()
    low, high = int(epochs.min()), int(epochs.max())
    return (low, int(np.min(sequences[epochs == low]))), (high, int(np.max(sequences[epochs == high])))
