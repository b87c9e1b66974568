"""What replaying a lane costs over reading the same bytes, and where the rest goes.

    .venv/bin/python -m benchmarks.replay [--megabytes 100] [--regions 256] [--repeat 9] [--in /some/folder]

For entries of 10, 100 and 1,000 rows, interleaved over the regions, written through the real writer into a directory:

    plain     every object read and its CRC-32 taken, in one thread: what cannot be saved
    chunks    LogStore.read: objects fetched ahead, checked, in order
    demux     ... and the entries handed to their regions, headers only
    decode    ... and each region's batches decoded into Arrow, in one read by region

Times are the best of `--repeat` interleaved rounds of one run: believe the ratios, not the megabytes a second.
"""

import argparse
import asyncio
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
import uvloop

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.arrow import arrow_schema, decode_spliced, encode_batch
from groundwork.core.entry import Entry, Kind, encode, iter_entries
from groundwork.core.ids import Lane, first_token, region_id
from groundwork.core.table import Column, Role, Schema

SCHEMA = arrow_schema(
    Schema(
        1,
        (
            Column("host", "string", Role.TAG),
            Column("ts", "timestamp_ns", Role.TIME),
            *(Column(f"f{n}", "float64", Role.FIELD) for n in range(4)),
        ),
    )
)
LANE = Lane("dn-1", first_token(1) + 4, 0)
WRITERS = 256


def batch(rows: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    columns = [
        pa.array([f"host-{n % 20}" for n in range(rows)]),
        pa.array(np.arange(rows, dtype=np.int64) + seed * rows, type=pa.timestamp("ns")),
        *(pa.array(rng.random(rows)) for _ in range(4)),
    ]
    return encode_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


class Bench:
    def __init__(self, root: Path, regions: int) -> None:
        self.root = root
        self.regions = [region_id(1, n) for n in range(regions)]
        self.workers = ThreadWorkers("replay", 4)
        self.log = ObjectsLog(DirectoryStore(root, self.workers), SystemClock(), self.workers)
        self.entries = 0

    async def write(self, rows: int, megabytes: int) -> None:
        payloads = [batch(rows, n) for n in range(16)]
        self.entries = megabytes * 1_000_000 // (len(payloads[0]) + 56)
        numbers = iter(range(self.entries))
        writer = await self.log.open_writer(LANE, lambda _p, _e: None)
        writer.admit()

        async def client() -> None:
            for n in numbers:
                entry = Entry(Kind.DATA, self.regions[n % len(self.regions)], 5, n, rows, 1, payloads[n % 16])
                await writer.append(encode(entry, LANE))

        await asyncio.gather(*(client() for _ in range(WRITERS)))
        await writer.close()

    def plain(self) -> int:
        size = 0
        for path in sorted((self.root / "lanes" / str(LANE)).iterdir()):
            body = path.read_bytes()
            zlib.crc32(body)
            size += len(body)
        return size

    async def chunks(self) -> None:
        async for chunk in self.log.read(LANE, 1, None):
            assert chunk.damage is None

    async def demux(self) -> dict[int, list[bytes | memoryview]]:
        found: dict[int, list[bytes | memoryview]] = {r: [] for r in self.regions}
        async for chunk in self.log.read(LANE, 1, None):
            for entry in iter_entries(chunk.body, found):
                assert isinstance(entry, Entry)
                found[entry.region].append(entry.payload)
        return found

    async def decode(self) -> None:
        rows = 0
        for payloads in (await self.demux()).values():
            rows += decode_spliced(payloads, SCHEMA).num_rows
        assert rows


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def one(root: Path, rows: int, args: argparse.Namespace) -> None:
    bench = Bench(root, args.regions)
    await bench.write(rows, args.megabytes)

    async def plain() -> int:
        return bench.plain()

    size = await plain()
    steps = {"plain": plain, "chunks": bench.chunks, "demux": bench.demux, "decode": bench.decode}
    took: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.repeat):
        for name, step in steps.items():
            took[name].append(await timed(step))
    base = min(took["plain"])
    before = 0.0
    print(f"{rows:,} rows an entry: {bench.entries:,} entries, {size / 1e6:.0f} MB")
    for name, samples in took.items():
        best = min(samples)
        share = best - before if name not in ("plain", "chunks") else best
        print(
            f"    {name:8} {size / 1e6 / best:7,.0f} MB/s {best / bench.entries * 1e6:8.2f} us/entry"
            f"   {base / best:5.2f} of the plain read's speed   this step {share / bench.entries * 1e6:6.2f} us/entry"
        )
        before = best
    bench.workers.close()


async def main(args: argparse.Namespace) -> None:
    for rows in (10, 100, 1000):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            await one(Path(folder), rows, args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--regions", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--in", dest="folder", default=None)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    uvloop.run(main(parser.parse_args()))
