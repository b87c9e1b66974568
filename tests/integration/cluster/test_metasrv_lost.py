"""P7 on real processes: all of metasrv is lost, then all of everything."""

import time
from pathlib import Path

import pytest

from groundwork.core.wire import table_from_wire
from metactl.asking import Metasrv
from metactl.cluster import Cluster
from metactl.inputs import TABLE, create_table_sql, files_under
from metactl.layout import Timing, plan_layout, ports_needed
from metactl.ledger import Row
from metactl.ports import PortHolder
from metactl.routing import serving, table_serves
from metactl.sql import read_back, run_sql
from metactl.verify import check
from metactl.waiting import until
from metactl.workload import Workload

LEASE_MS = 1_200


def test_losing_all_of_metasrv_loses_nothing(tmp_path: Path) -> None:
    """P7: no datanode ends; when metasrv is back so are the writes; and after kill -9 of everything so is every row."""
    ports = PortHolder()
    layout = plan_layout(tmp_path, ports.take(ports_needed((1, 2))), Timing(LEASE_MS, 200), datanode_sites=(1, 2))
    frontend = layout.of("frontend")[0].http
    replicas = [m.name for m in layout.of("metasrv")]
    client = Metasrv(layout.metasrv_addresses, layout.cluster_id)
    rows = list(files_under(Path(pytest.__file__).parents[1], 400))
    try:
        with Cluster(layout) as cluster:
            cluster.start()
            cluster.wait_ready()
            run_sql(frontend, create_table_sql(TABLE, 6))
            until("every region serves", lambda: table_serves(lambda: client.routes(TABLE)))
            load = Workload(table_from_wire(client.routes(TABLE).table), [frontend], 2, seed=1)
            load.bulk_load(rows[:200])
            cluster.kill(replicas)
            time.sleep(2 * LEASE_MS / 1000)  # every lease has run out
            for member in layout.of("datanode"):
                cluster.check(member.name)
            for name in replicas:
                cluster.spawn(name)
            cluster.wait_ready()
            load.bulk_load(rows[200:])
            cluster.kill([m.name for m in layout.members])
            cluster.start()
            cluster.wait_ready()
            until("every region serves again", lambda: serving(client.routes(TABLE)))
            last = [Row("/after", "", 1, 1)]
            load.bulk_load(last)
            load.stop()
            verdict = check(load.ledger, read_back(frontend, TABLE))
            assert (verdict.lost, verdict.wrong, verdict.acked) == (0, 0, len(rows) + 1), verdict.examples
    finally:
        client.close()
        ports.close()
