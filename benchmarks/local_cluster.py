"""A local cluster for a benchmark, with a table, and its ends tied up."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from groundwork.core.table import TableInfo
from groundwork.core.wire import table_from_wire
from metactl.asking import Metasrv
from metactl.cluster import Cluster
from metactl.inputs import TABLE, create_table_sql
from metactl.layout import Timing, plan_layout, ports_needed
from metactl.ports import PortHolder
from metactl.routing import table_serves
from metactl.sql import run_sql
from metactl.waiting import until


@dataclass
class Bench:
    cluster: Cluster
    metasrv: Metasrv
    frontends: list[str]
    table: TableInfo


def cpu_s(bench: Bench, name: str) -> float:
    """Seconds of processor time that one process has used: on a busy machine more to be trusted than its wall time."""
    fields = Path(f"/proc/{bench.cluster.pid(name)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(regions: int, timing: Timing, datanode_sites: Sequence[int]) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="metasrv-bench-"))
    ports = PortHolder()
    layout = plan_layout(folder, ports.take(ports_needed(datanode_sites)), timing, datanode_sites=datanode_sites)
    metasrv = Metasrv(layout.metasrv_addresses, layout.cluster_id)
    frontends = [m.http for m in reversed(layout.of("frontend"))]
    try:
        with Cluster(layout) as cluster:
            cluster.start()
            cluster.wait_ready()
            run_sql(frontends[0], create_table_sql(TABLE, regions))
            until("every region serves", lambda: table_serves(lambda: metasrv.routes(TABLE)))
            yield Bench(cluster, metasrv, frontends, table_from_wire(metasrv.routes(TABLE).table))
    finally:
        metasrv.close()
        ports.close()
        shutil.rmtree(folder, ignore_errors=True)
