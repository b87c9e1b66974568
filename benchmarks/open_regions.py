"""How long regions take to serve again after a crash, and how that grows with their number.

    .venv/bin/python -m benchmarks.open_regions [--megabytes 100] [--rows-per-entry 100] [--regions 100 1000]

For each number of regions: one datanode writes so many megabytes without a flush and is gone; a second one opens all
of its regions from the same directory, in one order. Printed beside it: a plain read of the lane's bytes.
"""

import argparse
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
import uvloop

from datanode_agent.engine.engine import Engine, EngineConfig
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.arrow import arrow_schema
from groundwork.core.ids import region_id
from groundwork.core.table import Column, Role, Schema
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2, types_pb2

SCHEMA = Schema(
    1,
    (
        Column("host", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        *(Column(f"f{n}", "float64", Role.FIELD) for n in range(4)),
    ),
)
TABLE = 1


class Always:
    """A lease that never ends."""

    def valid(self) -> bool:
        return True


def orders(regions: list[int], epoch: int, over: types_pb2.Lane | None, ends: int = 0) -> nodes_pb2.OrdersReply:
    reply = nodes_pb2.OrdersReply(revision=epoch)
    told = reply.tables.add(table_id=TABLE, name="cpu", schema_version=1, region_ids=regions)
    for c in SCHEMA.columns:
        told.columns.add(name=c.name, type=c.type, role=int(c.role), since_version=1)
    for region in regions:
        order = reply.orders.add(region_id=region, table_id=TABLE, kind=nodes_pb2.OPEN, epoch=epoch)
        if over is not None:
            order.over.append(over)
    return reply


def batch(rows: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    columns = [
        pa.array([f"host-{n % 20}" for n in range(rows)]),
        pa.array(np.arange(rows, dtype=np.int64) + seed * rows, type=pa.timestamp("ns")),
        *(pa.array(rng.random(rows)) for _ in range(4)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=arrow_schema(SCHEMA)).serialize().to_pybytes()


class Bench:
    """One directory, and engines over it."""

    def __init__(self, root: Path) -> None:
        self.clock = SystemClock()
        self.workers = ThreadWorkers("bench", 4)
        self.syncs = ThreadWorkers("store", 32)  # syncs wait for the disk, and share its journal commits
        self.store = DirectoryStore(root, self.syncs)
        self.reports: list[nodes_pb2.RegionReport] = []

    def engine(self, name: str) -> Engine:
        config = EngineConfig(flush_bytes=1 << 40, replay_objective_ms=1e9, settle_ms=1e9)
        logs = ObjectsLog(self.store, self.clock, self.workers)
        return Engine(
            node_id=name, store=self.store, logs=logs, clock=self.clock, workers=self.workers, config=config,
            lease=Always(), report=self.reports.append,
        )  # fmt: skip

    async def serving(self, engine: Engine, count: int) -> None:
        while engine.serving() < count:
            await self.clock.sleep(5)


async def run(count: int, size: int, rows: int, root: Path) -> float:
    bench = Bench(root)
    regions = [region_id(TABLE, n) for n in range(count)]
    a = bench.engine("a")
    await a.start(1, 1)
    a.admit([0])
    a.apply(orders(regions, 10, None))
    await bench.serving(a, count)
    bodies = [batch(rows, seed) for seed in range(16)]
    writes = size // len(bodies[0])
    began = bench.clock.now_ms()
    for first in range(0, writes, 256):
        group = [
            pb.RegionWrite(
                region_id=regions[n % count], epoch=10, schema_version=1, rows=rows, batch=bodies[n % len(bodies)]
            )
            for n in range(first, min(writes, first + 256))
        ]
        outcomes = await a.write(group, 60_000)
        assert all(o.outcome == pb.DONE for o in outcomes), outcomes[0]
    wrote_ms = bench.clock.now_ms() - began
    await a.abandon()
    paths = [p for p in (root / "lanes/a/0000000000000001/0").iterdir() if p.is_file()]
    began = bench.clock.now_ms()
    read = sum(len(p.read_bytes()) for p in sorted(paths))
    read_ms = bench.clock.now_ms() - began
    b = bench.engine("b")
    await b.start(2, 1)
    b.admit([0])
    bench.reports.clear()
    began, cpu = bench.clock.now_ms(), resource.getrusage(resource.RUSAGE_SELF)
    b.apply(orders(regions, 20, types_pb2.Lane(node_id="a", incarnation=1, index=0)))
    await bench.serving(b, count)
    open_ms = bench.clock.now_ms() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_ms = (used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime) * 1000
    entries = sum(r.serving.replayed_entries for r in bench.reports)
    assert entries == writes, (entries, writes)
    began = bench.clock.now_ms()
    scanned = 0
    for region in regions[:: max(1, count // 20)]:
        pieces = [r.ipc async for r in b.scan(pb.ScanRequest(region_id=region, epoch=20), 60_000)]
        scanned += pa.ipc.open_stream(b"".join(pieces)).read_all().num_rows
    scan_ms = bench.clock.now_ms() - began
    assert scanned
    await b.stop(flush=False)
    bench.workers.close()
    bench.syncs.close()
    print(
        f"{count:5} regions, {read / 1e6:.0f} MB in {writes} entries: wrote in {wrote_ms:.0f} ms, plain read"
        f" {read_ms:.0f} ms, all serve after {open_ms:.0f} ms (CPU {cpu_ms:.0f} ms; {open_ms / read_ms:.1f} x it,"
        f" {open_ms / count:.2f} ms a region), first scans of 20 {scan_ms:.0f} ms"
    )
    return open_ms


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rows-per-entry", type=int, default=100)
    parser.add_argument("--regions", type=int, nargs="+", default=[100, 1000])
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    took = {}
    for count in args.regions:
        root = Path(tempfile.mkdtemp(prefix="open-regions-"))
        try:
            took[count] = await run(count, args.megabytes * 1_000_000, args.rows_per_entry, root)
        finally:
            shutil.rmtree(root)
    least, most = min(took), max(took)
    if most > least:
        print(f"{most / least:.0f} times the regions: {took[most] / took[least]:.1f} times as long")


if __name__ == "__main__":
    uvloop.run(main())
