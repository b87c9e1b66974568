"""Bad input: one line that says what to do, exit status 2, nothing left behind."""

import fcntl
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.agent.harness import CLUSTER_ID, run_agent, write_config

NOBODY = ["127.0.0.1:9"]


def _refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonsense": 1}, ["unknown field `nonsense`", "cluster_id", "lanes"]),
        ({"laness": 1}, ["unknown field `laness`", "did you mean lanes?"]),
        ({"lanes": "two"}, ["lanes: expected `int`, got `str`"]),
        ({"log_level": "loud"}, ["log_level", "debug, info, warning, error"]),
        ({"cluster_id": "abc"}, ["cluster_id", "32 hex digits"]),
        ({"node_id": "DN 1"}, ["node_id"]),
        ({"locality": "site-1"}, ["locality", "site/zone"]),
        ({"metasrv": []}, ["metasrv", "no replica"]),
        ({"metasrv": ["127.0.0.1:9", "127.0.0.1:9"]}, ["metasrv", "twice"]),
        ({"metasrv": ["nowhere"]}, ["metasrv", "host:port"]),
        ({"metasrv": ["192.0.2.1:4001"]}, ["[tls]"]),
        ({"listen": "127.0.0.1:0"}, ["listen", "port from 1"]),
        ({"lanes": 0}, ["lanes", "1 to 64"]),
        ({"stop": "slowly"}, ["stop", "slowly", "drain, fast"]),
        ({"log_store": "kafka"}, ["log_store", "kafka"]),
        ({"cluster_id": None}, ["cluster_id"]),
    ],
)
def test_configuration(tmp_path: Path, changes: dict[str, object], words: list[str]) -> None:
    """What is wrong in the file is named, with what is allowed."""
    path = write_config(tmp_path, NOBODY, **{key: value for key, value in changes.items() if key != "metasrv"})
    if "metasrv" in changes:
        path = write_config(tmp_path, changes["metasrv"])  # type: ignore[arg-type]
    _refused(run_agent("--config", str(path)), *words)


def test_no_configuration(tmp_path: Path) -> None:
    """Neither a forgotten nor a missing file gives a traceback."""
    _refused(run_agent(), "--config")
    _refused(run_agent("--config", str(tmp_path / "absent.toml")), "absent.toml", "No such file")
    _refused(run_agent("release", "--config", str(tmp_path / "absent.toml")), "absent.toml")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A data_dir below a plain file."""
    (tmp_path / "plain").write_text("")
    path = write_config(tmp_path, NOBODY, data_dir=str(tmp_path / "plain" / "data"))
    _refused(run_agent("--config", str(path)), "data_dir", "cannot write")


def test_folder_locked_by_a_live_process(tmp_path: Path) -> None:
    """Neither a second agent nor a release may touch the folder of a process that lives."""
    path = write_config(tmp_path, NOBODY)
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _refused(run_agent("--config", str(path)), "data_dir", "locked by a live process")
        _refused(run_agent("release", "--config", str(path)), "data_dir", "locked by a live process")


def test_folder_of_another_node(tmp_path: Path) -> None:
    """A data folder belongs to one node id of one cluster for ever."""
    assert run_agent("release", "--config", str(write_config(tmp_path, NOBODY))).returncode == 0
    _refused(run_agent("release", "--config", str(write_config(tmp_path, NOBODY, node_id="dn-2"))), "dn-1", "node_id")
    foreign = write_config(tmp_path, NOBODY, cluster_id=CLUSTER_ID[::-1])
    _refused(run_agent("release", "--config", str(foreign)), "cluster_id", CLUSTER_ID)


def test_folder_of_a_newer_version(tmp_path: Path) -> None:
    """A newer format than known is refused, never guessed."""
    path = write_config(tmp_path, NOBODY)
    assert run_agent("release", "--config", str(path)).returncode == 0
    record = tmp_path / "data" / "folder.json"
    record.write_text(record.read_text().replace('"version":1', '"version":9'))
    _refused(run_agent("--config", str(path)), "version 9", "upgrade")


def test_nothing_to_release(tmp_path: Path) -> None:
    """Release after a graceful stop, or before the first start, is done already."""
    done = run_agent("release", "--config", str(write_config(tmp_path, NOBODY)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to release" in done.stdout


@pytest.mark.parametrize("field", ["listen", "http_listen"])
def test_port_in_use(tmp_path: Path, field: str) -> None:
    """A second server on a port fails at once, before anything is registered."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = write_config(tmp_path, NOBODY, **{field: address})
        _refused(run_agent("--config", str(path)), field, address)
