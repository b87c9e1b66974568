"""A whole cluster of processes under mutual TLS: everything that speaks gRPC proves who it is."""

import urllib.parse
import urllib.request
from pathlib import Path

from groundwork.adapters.config import TlsConfig
from metactl.asking import Metasrv
from metactl.cluster import Cluster
from metactl.layout import Timing, plan_layout, ports_needed
from metactl.ports import PortHolder
from metactl.waiting import until
from protos.metasrv.v1 import types_pb2
from tests.authority import Authority
from tests.integration.cluster.metactl_runner import in_process

LEASE_MS = 2_000
LINES = "\n".join(f"weather,city=c{n} temperature={n}.5 {1_000_000_000 + n}" for n in range(20))


def _post(address: str, path: str, body: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", body.encode(), timeout=30) as answer:
        content: bytes = answer.read()
        return content.decode()


def _count(address: str) -> str:
    return _post(address, "/v1/sql", urllib.parse.urlencode({"sql": "SELECT count(*) FROM weather"}))


def _flags(tls: TlsConfig) -> list[str]:
    return ["--tls-certificate", tls.certificate, "--tls-key", tls.key, "--tls-authority", tls.authority]


def test_a_cluster_under_mutual_tls(tmp_path: Path) -> None:
    """P1: elect, register, write, read, move, lose a datanode and read again, all of it with certificates."""
    authority = Authority(tmp_path)
    operator = authority.issue("operator")
    (tmp_path / "foreign").mkdir()
    stranger = Authority(tmp_path / "foreign").issue("operator")
    ports = PortHolder()
    sites = (1, 2)
    layout = plan_layout(tmp_path / "cluster", ports.take(ports_needed(sites)), Timing(LEASE_MS, 300),
                         datanode_sites=sites, tls=authority.issue)  # fmt: skip
    layout.folder.mkdir()
    addresses = ",".join(layout.metasrv_addresses)
    frontend = layout.of("frontend")[0].http
    client = Metasrv(layout.metasrv_addresses, layout.cluster_id, operator)

    def served_by(node_id: str) -> bool:
        route = client.routes("weather").routes[0]
        return route.node_id == node_id and route.phase == types_pb2.SERVING

    try:
        with Cluster(layout) as cluster:
            cluster.start()
            cluster.wait_ready()
            _post(frontend, "/v1/influxdb/write?db=public", LINES)
            assert "[[20]]" in _count(frontend)
            trusted = ["--metasrv", addresses, "--cluster-id", layout.cluster_id, *_flags(operator)]

            def all_reachable() -> bool:
                shown = in_process(tmp_path, *trusted, "-o", "json", "status")
                assert shown.returncode == 0, shown.stderr
                return shown.stdout.count('"reachable": true') == 3

            until("every replica reaches the others", all_reachable, deadline_s=30)
            target = next(n for n in ("dn-1", "dn-2") if not served_by(n))
            moved = in_process(tmp_path, *trusted, "migrate", "1.0", "--to", target, "--yes")
            assert moved.returncode == 0, moved.stderr
            until("it is moved", lambda: served_by(target), deadline_s=30)
            cluster.kill([target])
            other = next(n for n in ("dn-1", "dn-2") if n != target)
            until("it is failed over", lambda: served_by(other), deadline_s=30)
            _post(frontend, "/v1/influxdb/write?db=public", "weather,city=after temperature=1 1")
            assert "[[21]]" in _count(frontend)
            crossed = TlsConfig(stranger.certificate, stranger.key, operator.authority)
            for flags in ([], _flags(crossed)):
                refused = in_process(tmp_path, "--metasrv", addresses, *flags, "--deadline", "1", "status")
                assert (refused.returncode, refused.stderr.count("\n")) == (3, 1), refused.stderr
                print(refused.stderr)
    finally:
        client.close()
        ports.close()
