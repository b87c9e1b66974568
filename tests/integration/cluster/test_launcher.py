"""The launcher: its children never outlive it, and its failures are told in one message."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from metactl import child
from metactl.cluster import Cluster, ClusterFailed
from metactl.dev import hold, process_of
from metactl.layout import Timing, plan_layout, ports_needed
from metactl.ports import PortHolder
from metactl.waiting import until
from tests.integration.cluster.metactl_runner import METACTL, environment

LAUNCHER = """
import os, subprocess, sys
command = [sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), "/bin/sleep", "60"]
print(subprocess.Popen(command, start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


def gone(pid: int) -> bool:
    """Whether that process is dead (waiting to be buried counts)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_children_die_with_a_killed_launcher() -> None:
    """kill -9 of the launcher ends what it started, in process groups of their own as they are."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(child.__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert launcher.stdout is not None
    assert launcher.stdin is not None
    with launcher.stdout, launcher.stdin:
        pid = int(launcher.stdout.readline())
        until("it runs", lambda: psutil.Process(pid).name() == "sleep", deadline_s=10)
        launcher.kill()
        launcher.wait()
        until("it is gone", lambda: gone(pid), deadline_s=10)


def test_a_cluster_is_held_no_longer_than_the_process_it_was_started_for(tmp_path: Path) -> None:
    """dev up --pid: what a killed test, or script, has left in the background ends by itself."""
    ports = PortHolder()
    owner = subprocess.Popen(["/bin/sleep", "60"])
    held = process_of(owner.pid)
    with Cluster(plan_layout(tmp_path, ports.take(ports_needed()), Timing())) as cluster:
        thread = threading.Thread(target=hold, args=(cluster, threading.Event(), Console(quiet=True), held))
        thread.start()
        assert thread.is_alive()
        owner.kill()
        thread.join(20)
        assert not thread.is_alive()
    owner.wait()
    ports.close()


def test_a_process_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """A member that cannot start is named, with its status and what it said."""
    ports = PortHolder()
    layout = plan_layout(tmp_path, ports.take(ports_needed()), Timing())
    with Cluster(layout) as cluster:
        layout.write()
        layout.config_path("metasrv-1").write_text('cluster_id = "x"\nnonsense = 1\n')
        cluster.spawn("metasrv-1")
        with pytest.raises(ClusterFailed, match=r"metasrv-1 ended with status 2: error: ") as failed:
            cluster.wait_ready(["metasrv-1"], deadline_s=60)
        assert str(failed.value).count("\n") == 0
    ports.close()


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """SIGINT in the middle of a drill: one line, exit 130, no process left."""
    folder = tmp_path / "drill"
    process = subprocess.Popen(
        [METACTL, "demo", "--dir", str(folder), "--rows=1000", "--regions=8"], env=environment(tmp_path), cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr:
        until("it has started processes", lambda: len(list(folder.glob("*.pid"))) == 9, deadline_s=60)
        os.kill(process.pid, signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130, said
    assert said.splitlines()[-1].startswith("error: interrupted")
    pids = [int(path.read_text()) for path in folder.glob("*.pid")]
    until("all are gone", lambda: all(gone(pid) for pid in pids), deadline_s=10)
