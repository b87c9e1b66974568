"""`metactl dev` and the operator's commands against a cluster of real processes."""

import json
import os
import signal
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from metactl.asking import Metasrv
from metactl.cluster import is_ready
from metactl.context import Context
from metactl.dev import read_state
from metactl.waiting import until
from protos.metasrv.v1 import types_pb2
from tests.integration.cluster.metactl_runner import in_process, metactl

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Context]]:
    """A detached cluster, ended (and looked at for leftovers) afterwards."""
    folder = tmp_path_factory.mktemp("dev")
    done = metactl(folder, "dev", "up", "--detach", "--dir", "here", "--pid", str(os.getpid()))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "curl" in done.stdout
    assert "METASRV_ADDR=" in done.stdout
    pids = [int(path.read_text()) for path in (folder / "here").glob("*.pid")]
    assert len(pids) == 9
    yield folder, json_context(folder)
    assert metactl(folder, "dev", "down", "--dir", "here", "--wipe").returncode == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not (folder / "here").exists()


def json_context(folder: Path) -> Context:
    """What `dev up` wrote down for the other commands."""
    return Context(**json.loads((folder / "context.json").read_text()))


def http(address: str, path: str, body: str) -> bytes:
    """POST to a frontend; the answer's body."""
    with urllib.request.urlopen(f"http://{address}{path}", body.encode(), timeout=20) as answer:
        content: bytes = answer.read()
        return content


def frontend_of(folder: Path) -> str:
    """The HTTP address of fe-1."""
    state = read_state(folder / "here")
    assert state is not None
    return f"127.0.0.1:{state.ports[-2]}"


def ask_json(folder: Path, *arguments: str) -> Any:
    """A command's answer for programs."""
    done = in_process(folder, "-o", "json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_operators_round(cluster: tuple[Path, Context]) -> None:
    """Write, read, look at everything, move a region (plan first), drain and undo, pause and resume, explain."""
    folder, context = cluster
    lines = "\n".join(f"weather,city=c{n} temperature={n}.5 {1_000_000_000 + n}" for n in range(50))
    http(frontend_of(folder), "/v1/influxdb/write?db=public", lines)
    answer = json.loads(http(frontend_of(folder), "/v1/sql", urllib.parse.urlencode({"sql": "SELECT * FROM weather"})))
    assert len(answer["output"][0]["records"]["rows"]) == 50

    status = ask_json(folder, "status")
    assert status["cluster_id"] == context.cluster_id
    assert len(status["replicas"]) == 3
    assert sorted(n["node_id"] for n in status["nodes"]) == ["dn-1", "dn-2", "dn-3", "dn-4"]
    assert status["lease_ms"] == 3000
    for looking in (["status"], ["nodes"], ["tables"], ["routes", "weather"], ["procedures", "--all"], ["events"]):
        shown = in_process(folder, *looking)
        assert (shown.returncode, bool(shown.stdout)) == (0, True), shown.stderr

    route = ask_json(folder, "routes", "weather")["routes"][0]
    region = f"{int(route['region_id']) >> 32}.{int(route['region_id']) & 0xFFFFFFFF}"
    target = "dn-3" if route["node_id"] != "dn-3" else "dn-4"
    plan = ask_json(folder, "migrate", region, "--to", target, "--dry-run")
    assert (plan["committed"], plan["steps"][0]["to_node"]) == (False, target)
    assert ask_json(folder, "routes", "weather")["routes"][0]["node_id"] == route["node_id"]
    begun = ask_json(folder, "migrate", region, "--to", target, "--yes")
    assert begun["committed"]
    client = Metasrv(context.metasrv, context.cluster_id)

    def served_by(node: str) -> bool:
        now = client.routes("weather").routes[0]
        return now.node_id == node and now.phase == types_pb2.SERVING

    try:
        until(f"the region is at {target}", lambda: served_by(target), deadline_s=30)
        http(frontend_of(folder), "/v1/influxdb/write?db=public", "weather,city=after temperature=1 1")
        assert target in in_process(folder, "explain", region).stdout
        ended = next(p for p in ask_json(folder, "procedures", "--all")["procedures"] if p["kind"] == "migration")
        assert (ended["procedure_id"], ended["state"]) == (begun["procedure_id"], "committed")
        assert int(ended["ended_wall_ms"]) >= int(ended["started_wall_ms"]) > 0
        assert ask_json(folder, "drain", target, "--yes")["committed"]
        until("it is drained", lambda: not served_by(target) and served_by(client.routes("weather").routes[0].node_id),
              deadline_s=30)  # fmt: skip
        assert ask_json(folder, "drain", target, "--undo", "--yes")["committed"]
        assert ask_json(folder, "pause", "node/dn-1", "--for", "10m", "--reason", "test", "--yes")["committed"]
        assert ask_json(folder, "status")["pauses"][0]["scope"] == "node/dn-1"
        assert ask_json(folder, "resume", "node/dn-1", "--yes")["committed"]
        leader = client.status().leader_id
        other = next(r.node_id for r in client.status().replicas if not r.leader)
        assert in_process(folder, "leader", "transfer", other, "--yes").returncode == 0
        until("leadership moved", lambda: client.status().leader_id not in ("", leader), deadline_s=30)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["routes", "absent"], "absent"),
        (["routes"], "table"),
        (["migrate", "999.0", "--yes"], "region 999.0 does not exist"),
        (["migrate", "x", "--yes"], "TABLE_ID.PARTITION"),
        (["drain", "dn-9", "--yes"], "dn-9"),
        (["drain", "NOT A NODE", "--yes"], "NOT A NODE"),
        (["pause", "planet/earth", "--for", "1h", "--yes"], "planet/earth"),
        (["pause", "site/site-9", "--for", "1h", "--yes"], "site-1, site-2"),
        (["pause", "cluster", "--for", "1", "--yes"], "--for"),
        (["resume", "node/dn-1", "--yes"], "not paused"),
        (["cancel", "0x1e240", "--yes"], "0x1e240"),
        (["cancel", "that", "--yes"], "procedure"),
        (["leader", "transfer", "metasrv-9", "--yes"], "metasrv-9"),
        (["explain", "dn-9"], "dn-9"),
        (["--cluster-id", "f" * 32, "status"], "cluster"),
        (["dev", "up", "--dir", "here"], "already"),
        (["dev", "up", "--detach", "--dir", "there", "--pid", "99999999"], "--pid: no process 99999999"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    cluster: tuple[Path, Context], arguments: list[str], said: str
) -> None:
    """Exit 2, one line that names what is wrong, and the same revision as before."""
    folder, _ = cluster
    before = ask_json(folder, "status")["regions_by_phase"]
    done = in_process(folder, *arguments)
    assert done.returncode == 2, done.stderr + done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert ask_json(folder, "status")["regions_by_phase"] == before


NEEDED = {
    "metasrv": {
        "metasrv_lease_ms", "metasrv_silence_max_ms", "metasrv_nodes", "metasrv_nodes_unwell", "metasrv_regions",
        "metasrv_lanes", "metasrv_procedures", "metasrv_pauses", "metasrv_proposals_in_flight", "metasrv_propose_ms",
        "metasrv_failover_phase_ms", "metasrv_grants", "metasrv_leader", "metasrv_raft_commit_seconds",
    },
    "dn": {
        "datanode_lease_left_seconds", "datanode_lane_open", "datanode_lane_append_age_ms",
        "datanode_lane_appends_waiting", "datanode_lane_appended_bytes", "datanode_unflushed_bytes",
        "datanode_memory_bytes", "datanode_memory_budget_bytes", "datanode_store_probe_age_ms", "datanode_seal_ms",
        "datanode_claim_ms", "datanode_replay_ms", "datanode_open_ms", "datanode_append_ms", "datanode_flush_ms",
        "datanode_reports_waiting", "datanode_regions", "datanode_requests_in_flight",
    },
    "fe": {"frontend_requests", "frontend_write_seconds", "frontend_query_seconds", "frontend_in_flight_bytes"},
}  # fmt: skip
OURS = {"metasrv": "metasrv_", "dn": "datanode_", "fe": "frontend_"}


def test_what_every_process_shows(cluster: tuple[Path, Context]) -> None:
    """/health and /ready are 200; every metric is ours, has a help text and bounded labels; histograms name a unit."""
    folder, _ = cluster
    for kind, needed in NEEDED.items():
        for config in sorted((folder / "here").glob(f"{kind}-*.toml")):
            address = next(x.split('"')[1] for x in config.read_text().splitlines() if x.startswith("http_listen"))
            until(f"{config.stem} is ready", lambda at=address: is_ready(at), deadline_s=30)  # type: ignore[misc]
            with urllib.request.urlopen(f"http://{address}/health", timeout=20) as answer:
                assert answer.status == 200
                assert isinstance(json.loads(answer.read()), dict)
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            assert needed <= {f.name for f in families}, config.name
            for family in families:
                assert family.name.startswith(OURS[kind]), family.name
                assert family.documentation, family.name
                assert not family.name.endswith("_created"), family.name
                if family.type == "histogram":
                    assert family.name.endswith(("_ms", "_seconds", "_bytes")), family.name
                labels = {name for sample in family.samples for name in sample.labels}
                assert not labels & {"region", "region_id", "table", "address"}, family.name
            lines = config.with_suffix(".log").read_text().splitlines()
            assert all(line.startswith('{"timestamp": ') for line in lines), config.name


def test_the_last_datanode_is_not_drained(cluster: tuple[Path, Context]) -> None:
    """Drains go on until one node is left that can have regions; that one is refused in one line."""
    folder, _ = cluster
    for node in ("dn-1", "dn-2", "dn-3"):
        assert in_process(folder, "drain", node, "--yes").returncode == 0
    try:
        done = in_process(folder, "drain", "dn-4", "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr + done.stdout
        assert "dn-4 is the last datanode" in done.stderr
        assert not [p for p in ask_json(folder, "procedures")["procedures"] if p["from_node"] == "dn-4"]
    finally:
        for node in ("dn-1", "dn-2", "dn-3"):
            assert in_process(folder, "drain", node, "--undo", "--yes").returncode == 0


def test_a_dead_node_is_no_target_and_is_explained(cluster: tuple[Path, Context]) -> None:
    """P6: kill -9 of a node with a region: one sentence says how silent, of which lease, and where its regions went.

    A migration to the dead node, to an unknown one, and to the owner itself is refused in one line and moves nothing.
    """
    folder, context = cluster
    http(frontend_of(folder), "/v1/influxdb/write?db=public", "fallen,city=a temperature=1 1")
    route = ask_json(folder, "routes", "fallen")["routes"][0]
    region, node = f"{int(route['region_id']) >> 32}.0", route["node_id"]
    os.kill(int((folder / "here" / f"{node}.pid").read_text()), signal.SIGKILL)
    client = Metasrv(context.metasrv, context.cluster_id)
    try:
        until("it is failed over", lambda: (r := client.routes("fallen").routes[0]).node_id != node
              and r.phase == types_pb2.SERVING, deadline_s=30)  # fmt: skip
        owner = client.routes("fallen").routes[0].node_id
        for subject in (node, region):
            told = [s for s in in_process(folder, "explain", subject).stdout.splitlines() if "lease: 1 region" in s]
            assert told, subject
            assert f"{node} (" in told[-1]
            assert "ms of a 3,000 ms lease" in told[-1]
        for target, said in ((node, "not up and well"), ("dn-9", "not registered"), (owner, f"on {owner} already")):
            done = in_process(folder, "migrate", region, "--to", target, "--yes")
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert done.stderr.startswith("error: to_node: ")
            assert said in done.stderr
        assert client.routes("fallen").routes[0].node_id == owner
    finally:
        client.close()


def test_an_unreachable_cluster_is_exit_3(tmp_path: Path) -> None:
    """Nobody at that address: one line, exit 3."""
    done = in_process(tmp_path, "--metasrv", "127.0.0.1:1", "--deadline", "0.5", "status")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "127.0.0.1:1" in done.stderr


def test_no_cluster_named_is_exit_2(tmp_path: Path) -> None:
    """Without a context file metactl says how to name a cluster."""
    done = in_process(tmp_path, "status")
    assert (done.returncode, "METASRV_ADDR" in done.stderr) == (2, True)


def test_down_without_up_is_no_error(tmp_path: Path) -> None:
    """Ending what does not run is fine; asking for its status is not."""
    assert in_process(tmp_path, "dev", "down").returncode == 0
    assert in_process(tmp_path, "dev", "status").returncode == 2
