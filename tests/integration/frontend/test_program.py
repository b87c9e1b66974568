"""The program itself: bad configuration is one line and exit 2, SIGTERM is a clean end."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.integration.agent.harness import CLUSTER_ID
from tests.integration.agent.replica import replica
from tests.ports import free_ports
from tests.programs import running

PROGRAM = [sys.executable, "-m", "metasrv_frontend.main"]


def _config(folder: Path, **changes: object) -> Path:
    values: dict[str, object] = {
        "cluster_id": CLUSTER_ID, "node_id": "fe-1", "locality": "site-1/zone-a",
        "http_listen": f"127.0.0.1:{free_ports(1)[0]}", "metasrv": ["127.0.0.1:9"], **changes,
    }  # fmt: skip
    path = folder / "frontend.toml"
    path.write_text("".join(f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}\n" for k, v in values.items()))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cluster_id": "x"}, "cluster_id: 'x' is not 32 hex digits"),
        ({"node_id": "Fe 1"}, "node_id"),
        ({"locality": "here"}, "locality"),
        ({"http_listen": "nowhere"}, "http_listen"),
        ({"metasrv": []}, "metasrv: name at least one replica"),
        ({"metasrv": ["a"]}, "metasrv: 'a' is not of the form host:port"),
        ({"log_level": "loud"}, "log_level"),
        ({"auto_partitions": 0}, "auto_partitions"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"request_bytes_max": "much"}, "request_bytes_max"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_configuration(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    """One line on stderr that names the field, and exit 2."""
    ended = subprocess.run(
        [*PROGRAM, "--config", str(_config(tmp_path, **changes))], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert words in ended.stderr


def test_another_clusters_metasrv(tmp_path: Path) -> None:
    """T20: a frontend whose metasrv belongs to another cluster does not go on as if that would pass: exit 2."""

    async def story() -> tuple[int | None, str]:
        async with replica() as one:
            path = _config(tmp_path, metasrv=[one.address], cluster_id="0" * 32)
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, "--config", str(path), stderr=asyncio.subprocess.PIPE
            )
            _, said = await process.communicate()
            return process.returncode, said.decode().splitlines()[-1]

    status, said = asyncio.run(story())
    assert (status, said.startswith("error: cluster_id: this is cluster")) == (2, True), said


def test_a_port_in_use(tmp_path: Path) -> None:
    """Two of them on one port: the second says so."""
    path = _config(tmp_path)
    with running(*PROGRAM, "--config", str(path)) as first:
        assert first.stderr is not None
        assert "frontend_started" in first.stderr.readline()
        second = subprocess.run([*PROGRAM, "--config", str(path)], capture_output=True, text=True, check=False)
        assert (second.returncode, "cannot listen" in second.stderr) == (2, True)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)
        assert first.returncode == 0


def test_metasrv_away(tmp_path: Path) -> None:
    """It starts, lives and says that it is not ready; a write is answered within its deadline, and SIGTERM ends it."""
    path = _config(tmp_path)
    address = next(line.split("'")[1] for line in path.read_text().splitlines() if line.startswith("http_listen"))
    with running(*PROGRAM, "--config", str(path)) as process:
        assert process.stderr is not None
        assert "frontend_started" in process.stderr.readline()
        with httpx.Client(base_url=f"http://{address}", timeout=30) as http:
            assert http.get("/health").status_code == 200
            assert http.get("/ready").status_code == 503
            answer = http.post("/v1/influxdb/write", content="m f=1", headers={"x-deadline-ms": "300"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
