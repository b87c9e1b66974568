"""The longest gap between acks of a writer at full speed while its region migrates to and fro. Goal: 50 ms (P4).

    .venv/bin/python -m benchmarks.migration [--migrations 20]

Beside it, from the same run: the longest gap of the same writer while nothing moves.
"""

import argparse
import itertools
import threading
import time
import uuid

from benchmarks.local_cluster import Bench, running
from groundwork.adapters.clock import boottime_ms
from metactl.inputs import TABLE
from metactl.layout import Timing
from metactl.ledger import Row
from metactl.sql import read_back
from metactl.timeline import percentile
from metactl.verify import check
from metactl.waiting import until
from metactl.workload import Workload
from protos.metasrv.v1 import admin_pb2, types_pb2

REST_S = 0.5


def write_at_full_speed(load: Workload, region_id: int) -> None:
    """One small batch after another, each with new keys."""
    sender = load.sender(region_id)
    number = 0
    while not load.stopping.is_set():
        number += 1
        sender.send([Row("/full/speed", "", number, number)])


def route(bench: Bench, region_id: int) -> types_pb2.Route:
    return bench.metasrv.routes(region_ids=[region_id]).routes[0]


def migrate(bench: Bench, region_id: int, to: str) -> None:
    request = admin_pb2.MigrateRequest(
        sender=bench.metasrv.sender, region_ids=[region_id], to_node=to, who="benchmark", request_id=uuid.uuid4().hex
    )
    bench.metasrv.ask(lambda r: r.admin.Migrate, request)

    def arrived() -> bool:
        now = route(bench, region_id)
        return now.node_id == to and now.phase == types_pb2.SERVING

    until(f"{region_id} is at {to}", arrived)


def gaps_ms(acks: list[float], since_ms: float, until_ms: float) -> list[float]:
    times = [t for t in acks if since_ms <= t <= until_ms]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--migrations", type=int, default=20)
    given = options.parse_args()
    with running(1, Timing(), (1, 2)) as bench:
        region_id = bench.table.region_ids[0]
        load = Workload(bench.table, bench.frontends, 1, seed=1)
        writer = threading.Thread(target=write_at_full_speed, args=(load, region_id), daemon=True)
        writer.start()
        time.sleep(1)
        calm_ms = (boottime_ms(), boottime_ms() + 5_000)
        time.sleep(5)
        moves = []
        for _ in range(given.migrations):
            to = "dn-2" if route(bench, region_id).node_id == "dn-1" else "dn-1"
            since_ms = boottime_ms()
            migrate(bench, region_id, to)
            time.sleep(REST_S)
            moves.append((since_ms, boottime_ms()))
        load.stopping.set()
        writer.join(10)
        load.stop()
        load.check()
        acks = [a.at_ms for a in load.acks]
        calm = gaps_ms(acks, *calm_ms)
        worst = [max(gaps_ms(acks, *move), default=0.0) for move in moves]
        verdict = check(load.ledger, read_back(bench.frontends[0], TABLE))
        print(f"calm: {len(calm) / 5:,.0f} acks/s, gaps p50 {percentile(calm, 0.5):.1f} ms, max {max(calm):.1f} ms")
        print(
            f"{len(moves)} migrations: longest gap p50 {percentile(worst, 0.5):.1f} ms, "
            f"max {max(worst):.1f} ms (goal 50)"
        )
        print(f"over the calm maximum: {max(worst) / max(calm):.1f}")
        print(f"acknowledged {verdict.acked:,}, lost {verdict.lost}, wrong {verdict.wrong}")


if __name__ == "__main__":
    main()
