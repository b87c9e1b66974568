"""Chaos on real processes: `python -m tests.chaos.run --seconds 60 --seed N [--dir FOLDER]`; status 1 on a finding.

One cluster of 3 metasrv, 4 datanodes and 2 frontends on this machine, writers with a ledger, random faults; then
everything is brought back: every region must take writes again, nothing acknowledged may be missing or wrong, and no
process may have ended by itself or logged a defect. The seed gives the order of the faults, not their timing.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from groundwork.core.wire import table_from_wire
from metactl.asking import Metasrv
from metactl.cluster import Cluster
from metactl.inputs import TABLE, create_table_sql, files_under
from metactl.layout import Layout, Timing, plan_layout, ports_needed
from metactl.ports import PortHolder
from metactl.routing import serving, table_serves
from metactl.sql import read_back, run_sql
from metactl.verify import check
from metactl.waiting import DrillFailed, until
from metactl.workload import Workload
from tests.chaos.faults import Nemesis

TIMING = Timing(1_500, 250, flush_bytes=256 << 10, replay_objective_ms=500)
REGIONS = 12
ROWS = 4_000
RECOVERY_S = 90.0
DEFECTS = ("Traceback", "Fatal Python error", "Segmentation", "InvariantViolated", "never awaited", "never retrieved")


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=None, help="keep everything there")
    options = parser.parse_args()
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
        return _run(options.dir, options.seconds, options.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        return _run(Path(folder), options.seconds, options.seed)


def _run(folder: Path, seconds: float, seed: int) -> int:
    ports = PortHolder()
    layout = plan_layout(folder, ports.take(ports_needed()), TIMING)
    client = Metasrv(layout.metasrv_addresses, layout.cluster_id)
    try:
        with Cluster(layout) as cluster:
            found = _drive(cluster, client, seconds, seed)
    finally:
        client.close()
        ports.close()
    found += list(defects(layout))
    for line in found:
        print(f"FOUND {line}")
    print("clean" if not found else f"{len(found)} findings; logs in {folder}")
    return 1 if found else 0


def _drive(cluster: Cluster, client: Metasrv, seconds: float, seed: int) -> list[str]:
    frontends = [m.http for m in cluster.layout.of("frontend")]
    cluster.start()
    cluster.wait_ready()
    run_sql(frontends[0], create_table_sql(TABLE, REGIONS))
    until("every region serves", lambda: table_serves(lambda: client.routes(TABLE)))
    table = table_from_wire(client.routes(TABLE).table)
    load = Workload(table, frontends, 4, seed)
    load.bulk_load(list(files_under(Path(sys.prefix), ROWS)))
    load.start_live(0.5)
    nemesis = Nemesis(cluster, client, table.region_ids, seed)
    began_s = time.monotonic()
    while time.monotonic() - began_s < seconds and not load.failure:
        print(f"{time.monotonic() - began_s:7.2f} {nemesis.act()}", flush=True)
        time.sleep(nemesis.pause_s())
    nemesis.heal()
    found = [f"a writer was refused: {load.failure}"] if load.failure else []
    found += _recover(cluster, client, load)
    load.stop(60.0)
    nemesis.note_crashes()
    found += nemesis.crashed
    verdict = check(load.ledger, read_back(frontends[0], TABLE))
    print(f"faults {nemesis.done}; acknowledged {verdict.acked:,}, read {verdict.read:,}, lost {verdict.lost}, "
          f"wrong {verdict.wrong}, retries {load.retries}")  # fmt: skip
    return found + [f"rows: {example}" for example in verdict.examples]


def _recover(cluster: Cluster, client: Metasrv, load: Workload) -> list[str]:
    """Wait until all is well again; what is not within the deadline."""
    began_s = time.monotonic()
    try:
        cluster.wait_ready(deadline_s=RECOVERY_S)
        until("every region serves", lambda: serving(client.routes(TABLE)), deadline_s=RECOVERY_S)
        since = len(load.acks)
        regions = set(load.table.region_ids)
        until("every region takes writes", lambda: {a.region_id for a in load.acks[since:]} == regions or bool(
            load.failure), deadline_s=RECOVERY_S)  # fmt: skip
        until("nothing is in flight", lambda: set(client.status().regions_by_phase) == {"serving"})
    except DrillFailed as error:
        stuck = [f"{r.region_id:#x} {r.phase} at {r.node_id}" for r in client.routes(TABLE).routes]
        return [f"stuck: {error}; {stuck}"]
    print(f"all well after {time.monotonic() - began_s:.1f} s")
    return []


def defects(layout: Layout) -> Iterator[str]:
    """Lines of the members' logs that no fault excuses."""
    for member in layout.members:
        for number, line in enumerate(layout.log_path(member.name).read_text(errors="replace").splitlines(), start=1):
            try:
                level = json.loads(line).get("level", "")
            except (ValueError, AttributeError):
                level = ""
            if level in ("error", "critical") or any(word in line for word in DEFECTS):
                yield f"{member.name}.log:{number}: {line[:300]}"


if __name__ == "__main__":
    sys.exit(main())
