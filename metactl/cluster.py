"""A cluster on this machine: separate processes on real sockets and a real disk, in a folder of its own.

Every process dies with the one that started it (child.py), writes to a log of its own, and is only ever signalled by
the process group that we made for it. Start from the main thread: the kernel ties a child to the *thread* that made it.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from groundwork.core.errors import BadInput, MetasrvError
from metactl import child
from metactl.layout import PROGRAMS, Layout, Member

READY_POLL_S = 0.05
STOP_WAIT_S = 5.0
LOG_TAIL_LINES = 5


class ClusterFailed(MetasrvError):
    """A process of the local cluster ended or did not become ready; the message ends with its last words."""


class Cluster:
    """The processes of one layout. A context manager: leaving it ends everything."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Write the configuration and start every process at once: what takes time is that each loads its libraries."""
        self.layout.write()
        for member in self.layout.members:
            self.spawn(member.name)

    def spawn(self, name: str) -> None:
        """Start one process (again). Its log is appended to."""
        member = self.layout.member(name)
        program = Path(sys.executable).parent / PROGRAMS[member.kind]
        if not program.exists():
            raise BadInput(PROGRAMS[member.kind], f"{program} is not there: run `make setup`")
        command = [sys.executable, "-I", "-S", str(child.__file__), str(os.getpid()), str(program)]
        with self.layout.log_path(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*command, "--config", str(self.layout.config_path(name))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.layout.folder,
                start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"},
            )  # fmt: skip
        written = self.layout.folder / f"{name}.pid.new"
        written.write_text(f"{self._processes[name].pid}\n")
        written.replace(self.layout.folder / f"{name}.pid")  # whoever finds it finds a number in it

    def wait_ready(self, names: Iterable[str] | None = None, deadline_s: float = 60.0,
                   on_ready: Callable[[Member], None] | None = None) -> None:  # fmt: skip
        """Wait until each member answers /ready with 200. Raises ClusterFailed when one ends or time runs out."""
        waiting = list(names) if names is not None else [m.name for m in self.layout.members]
        give_up = time.monotonic() + deadline_s
        while waiting:
            for name in list(waiting):
                self.check(name)
                if is_ready(self.layout.member(name).http):
                    waiting.remove(name)
                    if on_ready is not None:
                        on_ready(self.layout.member(name))
            if waiting and time.monotonic() > give_up:
                tails = "".join(f"\n{name}: {self.tail(name)}" for name in waiting)
                raise ClusterFailed(f"not ready after {deadline_s:.0f} s: {', '.join(waiting)}{tails}")
            time.sleep(READY_POLL_S)

    def check(self, name: str) -> None:
        """Raise ClusterFailed when this process has ended by itself."""
        code = self._processes[name].poll()
        if code is not None:
            raise ClusterFailed(f"{name} ended with status {code}: {self.tail(name)}")

    def tail(self, name: str) -> str:
        """The last lines of a member's log."""
        path = self.layout.log_path(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:]) or "it logged nothing"

    def pid(self, name: str) -> int:
        """The process id, which is also its process group."""
        return self._processes[name].pid

    def running(self, name: str) -> bool:
        """Whether the process is there (a stopped one is)."""
        return name in self._processes and self._processes[name].poll() is None

    def signal(self, names: Sequence[str], number: signal.Signals) -> None:
        """Send one signal to the process groups of these members, all at once. Those that are gone are passed over."""
        for name in names:
            if self.running(name):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._processes[name].pid, number)

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL, and wait until the kernel has buried them."""
        self.signal(names, signal.SIGKILL)
        for name in names:
            if name in self._processes:
                self._processes[name].wait()

    def close(self) -> None:
        """End everything: it is a drill, so nothing is gained by asking politely first."""
        names = list(self._processes)
        self.signal(names, signal.SIGKILL)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_WAIT_S)


def is_ready(http_address: str) -> bool:
    """Whether the process behind this address says that it is ready."""
    connection = http.client.HTTPConnection(http_address, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
