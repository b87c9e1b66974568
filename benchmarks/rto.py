"""RTO of 100 regions and 100 MB unflushed after kill -9 of their datanode. Goal: lease + 1 s.

    .venv/bin/python -m benchmarks.rto [--regions 100] [--megabytes 100] [--lease-ms 3000]

Prints the phases, and the total over the lease. Two datanodes; the one that is killed owns all the regions measured.
"""

import argparse
import signal

from rich.console import Console

from benchmarks.local_cluster import Bench, running
from groundwork.adapters.clock import boottime_ms
from metactl.inputs import TABLE
from metactl.layout import Timing
from metactl.ledger import Row
from metactl.sql import read_back
from metactl.timeline import Fault, percentile, phases_ms, replayed_entries, rto_by_region, writes_again
from metactl.verify import check
from metactl.waiting import until
from metactl.watching import Follower
from metactl.workload import Workload

PATH_BYTES = 400
console = Console(highlight=False)


def fill(bench: Bench, load: Workload, regions: list[int], total_bytes: int) -> None:
    """Rows of about 430 bytes into these regions only, until metasrv hears of so many unflushed bytes."""
    mine = set(regions)
    number = 0
    since_ms = boottime_ms()
    while unflushed(bench) < total_bytes:
        rows: list[Row] = []
        while len(rows) < 20_000:
            path = f"/{number:x}/".ljust(PATH_BYTES, "x")
            number += 1
            if bench.table.region_of({"path": path}) in mine:
                rows.append(Row(path, "", 1_000_000_000 + number, number))
        load.bulk_load(rows)
    console.print(f"filled {unflushed(bench) / 1e6:,.0f} MB in {(boottime_ms() - since_ms) / 1000:.1f} s")


def unflushed(bench: Bench) -> int:
    return next(n.unflushed_bytes for n in bench.metasrv.status().nodes if n.node_id == "dn-1")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--regions", type=int, default=100)
    options.add_argument("--megabytes", type=int, default=100)
    options.add_argument("--lease-ms", type=int, default=3000)
    given = options.parse_args()
    timing = Timing(lease_ms=given.lease_ms, flush_bytes=1 << 30, replay_objective_ms=600_000)
    with running(2 * given.regions, timing, (1, 2)) as bench:
        before = bench.metasrv.routes(TABLE)
        regions = [r.region_id for r in before.routes if r.node_id == "dn-1"]
        load = Workload(bench.table, bench.frontends, 8, seed=1)
        fill(bench, load, regions, given.megabytes * 1_000_000)
        follower = Follower(bench.metasrv)
        follower.start()
        bulk = len(load.acks)
        load.start_live(interval_s=2.0)
        until("live", lambda: len({a.region_id for a in load.acks[bulk:]}) == len(bench.table.region_ids), load.check)
        held = unflushed(bench)
        began_ms = boottime_ms()
        bench.cluster.signal(["dn-1"], signal.SIGKILL)
        fault = Fault("node", ("dn-1",), began_ms, boottime_ms(), tuple(regions))
        until("recovered", lambda: set(regions) <= writes_again(list(load.acks), fault), load.check)
        load.stop(grace_s=20.0)
        load.check()
        follower.stop()
        verdict = check(load.ledger, read_back(bench.frontends[0], TABLE))
        rto = list(rto_by_region(load.acks, fault).values())
        console.print(f"regions {len(rto)}, unflushed {held / 1e6:,.0f} MB, "
                      f"entries replayed {replayed_entries(follower.happenings, fault):,}")  # fmt: skip
        for phase, at_ms in phases_ms(load.acks, follower.happenings, fault).items():
            console.print(f"  {phase:<10} {at_ms:9,.0f} ms after the kill")
        worst = max(rto)
        console.print(
            f"RTO p50 {percentile(rto, 0.5):,.0f} ms, p99 {percentile(rto, 0.99):,.0f} ms, max {worst:,.0f} ms"
        )
        console.print(f"total over lease: {worst / given.lease_ms:.2f} (lease {given.lease_ms} ms "
                      f"+ {worst - given.lease_ms:,.0f} ms; goal: lease + 1,000 ms)")  # fmt: skip
        console.print(f"acknowledged {verdict.acked:,}, lost {verdict.lost}, wrong {verdict.wrong}")


if __name__ == "__main__":
    main()
