"""How much memory the replicated state takes, how fast it applies, and how long a snapshot stalls.

    .venv/bin/python -m benchmarks.state_memory [regions, default 1000000]

Prints one figure a line. The house limit: 1,000,000 regions in 1 GiB, no stall over a tenth of an election (40 ms).
"""

import gc
import resource
import sys
import time

from groundwork.core.ids import Lane
from groundwork.core.table import PARTITIONS_MAX, Column, Role
from metasrv.core import commands as c
from metasrv.core.leases import Beat, LaneHealth, LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.planner import plan_failover

NODES, LANES = 100, 2
COLUMNS = (Column("ts", "timestamp_ns", Role.TIME), Column("host", "string", Role.TAG))


def rss_mib() -> float:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


class Timed:
    """A machine whose applies are timed."""

    def __init__(self) -> None:
        self.machine, self.revision, self.slowest_ms, self.total_s = Machine(), 0, 0.0, 0.0

    def apply(self, command: c.AnyCommand) -> int:
        raw = c.encode(command)
        self.revision += 1
        began = time.perf_counter()
        outcome = self.machine.apply(self.revision, raw)
        took = time.perf_counter() - began
        self.total_s += took
        self.slowest_ms = max(self.slowest_ms, took * 1000)
        assert not outcome.refused, outcome.refused
        return outcome.value

    def report(self, what: str, count: int, unit: str) -> None:
        rate = count / self.total_s if self.total_s else 0.0
        print(
            f"{what}: {count:,} {unit} in {self.total_s:.2f} s, {rate:,.0f}/s, slowest apply {self.slowest_ms:.1f} ms"
        )
        self.slowest_ms = self.total_s = 0.0


def main() -> None:
    regions = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    gc.collect()
    start = rss_mib()
    t = Timed()
    t.apply(c.Bootstrap(cluster_id="bench", generation=1))
    lanes: list[Lane] = []
    for i in range(NODES):
        name = f"dn-{i}"
        place = f"site-{i % 2}/zone-{i % 4}"
        incarnation = t.apply(
            c.Register(node_id=name, folder_id=name, locality=place, address=f"{name}:4001", lanes=LANES,
                       capacity_regions=10_000_000)
        )  # fmt: skip
        lanes += [Lane(name, incarnation, n) for n in range(LANES)]
    t.slowest_ms = t.total_s = 0.0
    made = 0
    while made < regions:
        partitions = min(PARTITIONS_MAX, regions - made)
        placement = tuple((made + p) % len(lanes) for p in range(partitions))
        t.apply(
            c.CreateTable(
                name=f"t{made}", columns=COLUMNS, partitions=partitions, lanes=tuple(lanes), placement=placement
            )
        )
        made += partitions
    t.report("create", regions, "regions, 10,000 a table")
    state = t.machine.state
    batch: list[c.Report] = []
    for region_id, region in list(state.regions.items()):
        batch.append(c.Serving(region.lane.node_id, region.lane.incarnation, region_id, region.epoch))
        if len(batch) == 500:
            t.apply(c.Reports(items=tuple(batch)))
            batch = []
    t.report("serving", regions, "reports, 500 a command")
    gc.collect()
    print(f"memory: {rss_mib() - start:,.0f} MiB for {len(state.regions):,} regions on {NODES} nodes")
    began = time.perf_counter()
    owned = sum(len(state.regions_of(lane)) for lane in state.open_lanes("dn-0"))
    print(f"a node's {owned:,} regions: {(time.perf_counter() - began) * 1000:.1f} ms")
    failover(t)
    snapshot(t)


def failover(t: Timed) -> None:
    """Lose dn-0 with all its regions."""
    state, book = t.machine.state, LeaseBook("m")
    for node in state.nodes.values():
        health = tuple(LaneHealth(i, True, 0) for i in range(node.lanes))
        book.heard(Beat(node.node_id, node.incarnation, health), 0.0)
    node = state.nodes["dn-0"]
    count = state.node_region_count("dn-0")
    ended = [c.Ended("dn-0", node.incarnation, "operator")]
    while ended or state.lost_lanes():
        began = time.perf_counter()
        plan = plan_failover(state, book.inventory(state, 1.0), ended, why="bench")
        took_ms = (time.perf_counter() - began) * 1000
        assert plan.command is not None
        print(f"plan a failover: {took_ms:.1f} ms, a command of {len(c.encode(plan.command)):,} bytes")
        t.apply(plan.command)
        ended = []
    t.report("failover", count, "regions")


def snapshot(t: Timed) -> None:
    """Slice by slice, with what an apply in between costs."""
    began = time.perf_counter()
    slices = t.machine.snapshot()
    stall_ms = (time.perf_counter() - began) * 1000
    total, count = 0, 0
    while True:
        began = time.perf_counter()
        piece = next(slices, None)
        stall_ms = max(stall_ms, (time.perf_counter() - began) * 1000)
        if piece is None:
            break
        total += len(piece)
        count += 1
    print(f"snapshot: {total / 2**20:,.0f} MiB in {count:,} slices, longest stall {stall_ms:.1f} ms")
    whole = list(t.machine.snapshot())
    began = time.perf_counter()
    again = Machine()
    again.restore(whole)
    print(f"restore: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
