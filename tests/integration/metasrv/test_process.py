"""metasrv as a process: what is wrong is one line on stderr and exit code 2; SIGTERM ends it with 0."""

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from groundwork.adapters.systemd import notify
from groundwork.core.errors import BadInput
from metasrv.adapters.folder import DataFolder
from metasrv.adapters.raft.journal import MARK
from metasrv.config import load, replicated
from tests.integration.metasrv.world import CLUSTER
from tests.ports import free_ports
from tests.programs import running

COMMAND = [sys.executable, "-m", "metasrv.main", "--config"]


def _toml(tmp_path: Path, **changes: str) -> Path:
    rpc, http = free_ports(2)
    values = {
        "cluster_id": f'"{CLUSTER}"',
        "node_id": '"metasrv-1"',
        "locality": '"site-1/zone-a"',
        "data_dir": f'"{tmp_path}/data"',
        "listen": f'"127.0.0.1:{rpc}"',
        "http_listen": f'"127.0.0.1:{http}"',
        "peers": f'{{ "metasrv-1" = "127.0.0.1:{rpc}" }}',
        "object_store": f'{{ directory = "{tmp_path}/objects" }}',
    } | changes
    path = tmp_path / "metasrv.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in values.items() if value))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cluster_id": '"x"'}, "cluster_id: 'x' is not 32 hex digits"),
        ({"node_id": '"metasrv-9"'}, "peers: all replicas must be listed"),
        ({"locality": '"here"'}, "locality: 'here' is not of the form site/zone"),
        ({"listen": '"4001"'}, "listen: '4001' is not of the form host:port"),
        ({"listen": '"10.0.0.1:4001"'}, "listen: 10.0.0.1:4001 is not a loopback address"),
        ({"log_level": '"loud"'}, "log_level: 'loud' is not one of"),
        ({"object_store": "{}"}, "object_store: set either directory or s3_bucket"),
        ({"timing": "{ lease_ms = 10 }"}, "timing.lease_ms: 10 is not from 200"),
        ({"timing": "{ beat_ms = 2000 }"}, "timing.beat_ms: 2000 is not from 10 to a third"),
        ({"policy": "{ breaker_fraction = 2.0 }"}, "policy: Expected `float` <= 1"),
        ({"data_dir": ""}, "missing required field `data_dir`"),
        ({"colour": '"red"'}, "unknown field `colour`"),
        ({"listen": '"127.0.0.1'}, "not valid TOML"),
    ],
)
def test_bad_configuration_names_the_field(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    """Every wrong value is refused with its field and what is allowed, in one line."""
    with pytest.raises(BadInput) as refused:
        load(_toml(tmp_path, **changes))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_good_configuration_is_taken(tmp_path: Path) -> None:
    """Timing and policy become the part that every leader agrees on."""
    config = load(_toml(tmp_path, timing="{ lease_ms = 1000, beat_ms = 100 }", policy="{ breaker_fraction = 0.25 }"))
    agreed = replicated(config)
    assert (agreed.lease_ms, agreed.beat_ms, agreed.breaker_fraction) == (1_000, 100, 0.25)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """T20: a data folder is locked by one process and belongs to one cluster and replica."""
    first = DataFolder(tmp_path / "data", CLUSTER, "metasrv-1")
    first.open()
    with pytest.raises(BadInput, match="locked by a live process"):
        DataFolder(tmp_path / "data", CLUSTER, "metasrv-1").open()
    first.close()
    for cluster_id, node_id, says in [
        ("f" * 32, "metasrv-1", "belongs to cluster_id"),
        (CLUSTER, "m-2", "belongs to node_id metasrv-1"),
    ]:
        other = DataFolder(tmp_path / "data", cluster_id, node_id)
        with pytest.raises(BadInput, match=says):
            other.open()
        other.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write in"):
        DataFolder(tmp_path / "file" / "data", CLUSTER, "metasrv-1").open()


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY=1 goes to NOTIFY_SOCKET; without one nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def _one_line(path: Path) -> str:
    done = subprocess.run([*COMMAND, str(path)], capture_output=True, text=True, timeout=60)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_a_process_starts_answers_and_stops(tmp_path: Path) -> None:
    """A single replica bootstraps, is ready, keeps its port and folder to itself, and ends with 0 on SIGTERM."""
    path = _toml(tmp_path)
    config = load(path)
    with running(*COMMAND, str(path)) as process:
        asyncio.run(_until_ready(config.http_listen, process))
        assert "locked by a live process" in _one_line(path)
        peers = f'{{ "metasrv-1" = "{config.listen}" }}'
        again = _toml(tmp_path, data_dir=f'"{tmp_path}/other"', listen=f'"{config.listen}"', peers=peers)
        assert f"cannot listen on {config.listen}" in _one_line(again)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 0, stderr
        assert "Traceback" not in stderr


async def _until_ready(address: str, process: "subprocess.Popen[str]") -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
        while process.poll() is None:
            try:
                if (await http.get("/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it has not come so far
            await asyncio.sleep(0.05)
    raise AssertionError(f"it ended with {process.returncode}")


def test_a_damaged_journal_says_what_to_do(tmp_path: Path) -> None:
    """Damage in the middle of the journal: the process does not start, and its one line names the way out."""
    path = _toml(tmp_path)
    config = load(path)
    with running(*COMMAND, str(path), stderr=subprocess.DEVNULL) as process:
        asyncio.run(_until_ready(config.http_listen, process))
        process.kill()
    journal = Path(config.data_dir) / "raft" / "journal"
    raw = bytearray(journal.read_bytes())
    raw[raw.index(MARK) + 20] ^= 0xFF  # in the first frame: others were written after it
    journal.write_bytes(raw)
    assert "error: Damaged: " in (line := _one_line(path)), line
    assert "restore" in line or "--rejoin" in line, line
