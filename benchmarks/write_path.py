"""Rows/s and latency of line protocol through frontend and datanode, over a bare append of the same bytes to a lane.

    .venv/bin/python -m benchmarks.write_path [--rows 1000] [--clients 8] [--seconds 8] [--regions 4]

Both in one run on one disk, with the same number of callers: the ratio is what to trust, not the figures. The bare
append writes the very entries that the datanode writes for these bodies, to a lane of its own in the same directory.
"""

import argparse
import asyncio
import http.client
import itertools
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.local_cluster import Bench, cpu_s, running
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.objects import open_object_store
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.entry import Entry, Kind, encode
from groundwork.core.errors import Refused
from groundwork.core.ids import Lane
from groundwork.core.table import TableInfo
from groundwork.core.wire import table_from_wire
from metactl.layout import Timing
from metasrv_frontend.core.line_protocol import parse_lines
from metasrv_frontend.core.rows import pieces_of_lines

TABLE = "write_path"
START_NS = 1_700_000_000_000_000_000


def body_of(number: int, rows: int) -> bytes:
    at = START_NS + number * rows * 1_000
    return b"\n".join(
        b"%s,host=host-%d,region=eu-west usage_user=%d.5,usage_system=3.25,usage_idle=80.1 %d"
        % (TABLE.encode(), i % 100, i % 90, at + i * 1_000)
        for i in range(rows)
    )


def through_frontend(address: str, rows: int, clients: int, seconds: float) -> tuple[list[float], float]:
    """Latencies in ms of every acknowledged body, and the seconds that all took."""
    numbers = itertools.count(1)
    bodies = [body_of(next(numbers), rows) for _ in range(64)]
    laps: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while time.perf_counter() < end:
            body = bodies[next(numbers) % len(bodies)]
            began = time.perf_counter()
            connection.request("POST", "/v1/influxdb/write", body)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 204:
                sys.exit(f"status {answer.status}")
            laps.append((time.perf_counter() - began) * 1000)
        connection.close()

    return laps, timed(client, clients)


def timed(client: Callable[[], None], clients: int) -> float:
    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


async def bare(folder: Path, table: TableInfo, rows: int, clients: int, seconds: float) -> tuple[list[float], float]:
    """The same entries, appended to a lane of their own: a body's entries together, as the datanode gets them."""
    workers = ThreadWorkers("bare", 4)
    store = open_object_store(ObjectStoreConfig(directory=str(folder)), workers)
    lane = Lane("bare", 1, 0)
    writer = await ObjectsLog(store, SystemClock(), workers).open_writer(lane, lambda position, entries: None)
    writer.admit()
    lines = parse_lines(body_of(1, rows))[TABLE]
    entries = [
        encode(Entry(Kind.DATA, p.region_id, 1, 1, p.rows, p.schema_version, p.batch), lane)
        for pieces in pieces_of_lines(table, lines).values()
        for p in pieces
    ]
    laps: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            began = time.perf_counter()
            await asyncio.gather(*(writer.append(entry) for entry in entries))
            laps.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    await writer.close()
    workers.close()
    return laps, took


def show(name: str, laps: list[float], took: float, rows: int) -> float:
    rate = len(laps) * rows / took
    p50, p99 = np.percentile(laps, [50, 99])
    print(f"{name:<28} {rate:>12,.0f} rows/s   p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   {len(laps)} bodies")
    return rate


def known_table(bench: Bench) -> TableInfo:
    """A follower may be behind the leader that made the table."""
    for _ in range(200):
        try:
            return table_from_wire(bench.metasrv.routes(TABLE).table)
        except Refused:
            time.sleep(0.05)
    sys.exit(f"table {TABLE} is not known")


def run(bench: Bench, rows: int, clients: int, seconds: float, regions: int) -> None:
    address = bench.frontends[0]
    connection = http.client.HTTPConnection(address, timeout=60)
    create = (
        f"CREATE TABLE {TABLE} (host STRING, region STRING, ts TIMESTAMP(9) TIME INDEX, usage_user DOUBLE, "
        "usage_system DOUBLE, usage_idle DOUBLE, PRIMARY KEY(host, region)) "
        f"PARTITION BY HASH (host) PARTITIONS {regions}"
    )
    headers = {"content-type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/v1/sql", "sql=" + create.replace(" ", "+"), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(answer.read().decode())
    info = known_table(bench)
    through_frontend(address, rows, clients, 1.0)  # connections, caches
    frontend = next(m.name for m in bench.cluster.layout.of("frontend") if m.http == address)
    before = [cpu_s(bench, name) for name in (frontend, "dn-1")]
    laps, took = through_frontend(address, rows, clients, seconds)
    used = [cpu_s(bench, name) - since for name, since in zip((frontend, "dn-1"), before, strict=True)]
    whole = show("through frontend + datanode", laps, took, rows)
    folder = bench.cluster.layout.folder / "objects"
    began = time.process_time()
    alone_laps, alone_took = asyncio.run(bare(folder, info, rows, clients, seconds))
    bare_us = (time.process_time() - began) * 1e6 / (len(alone_laps) * rows)
    alone = show("bare append", alone_laps, alone_took, rows)
    per_row = [cpu * 1e6 / (len(laps) * rows) for cpu in used]
    print(f"ratio                        {whole / alone:.3f} of the bare append's rows/s")
    print(
        f"processor time               frontend {per_row[0]:.2f} us a row, datanode {per_row[1]:.2f}, bare append"
        f" {bare_us:.2f} ({sum(per_row) / bare_us:.1f} x)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000, help="rows of one body")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--regions", type=int, default=4)
    options = parser.parse_args()
    with running(1, Timing(), (1,)) as bench:
        run(bench, options.rows, options.clients, options.seconds, options.regions)


if __name__ == "__main__":
    main()
