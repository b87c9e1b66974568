"""Free ports of this machine, held against other launchers for the life of this process.

Ports lie between 20000 and 32000: below what kernels hand out to connecting sockets, so that nobody's outgoing
connection can take one. A port is held by a lock on a small registry file, which the kernel lets go when its process
dies, however it dies; so two launchers (or two test workers) never give out the same one.
"""

import atexit
import fcntl
import os
import secrets
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

from groundwork.core.errors import BadInput

PORT_MIN = 20_000
PORT_MAX = 32_000


class PortHolder:
    """Ports given to one launcher. They are free again after close(), or when the process ends."""

    def __init__(self, registry: Path | None = None) -> None:
        self._registry = registry or Path(tempfile.gettempdir()) / f"metasrv-ports-{os.getuid()}"
        self._registry.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held: dict[int, int] = {}
        self._own_pid = os.getpid()
        atexit.register(self.close)

    def take(self, count: int) -> list[int]:
        """So many free ports, each different. Raises BadInput when there are none left."""
        taken: list[int] = []
        start = secrets.randbelow(PORT_MAX - PORT_MIN)
        for step in range(PORT_MAX - PORT_MIN):
            if len(taken) == count:
                return taken
            port = PORT_MIN + (start + step) % (PORT_MAX - PORT_MIN)
            if self._hold(port):
                taken.append(port)
        raise BadInput("ports", f"no {count} free ports between {PORT_MIN} and {PORT_MAX}")

    def hold(self, ports: Iterable[int]) -> bool:
        """Hold exactly these ports; False, and none of them, where one is not free."""
        wanted = list(ports)
        held = [port for port in wanted if self._hold(port)]
        if len(held) == len(wanted):
            return True
        for port in held:
            self._let_go(port)
        return False

    def _hold(self, port: int) -> bool:
        path = self._registry / str(port)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been unlinked by its last holder between our open and our lock.
            if path.stat().st_ino == os.fstat(descriptor).st_ino and _is_free(port):
                self._held[port] = descriptor
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return False

    def close(self) -> None:
        """Give all of them back."""
        if os.getpid() != self._own_pid:
            return
        for port in list(self._held):
            self._let_go(port)

    def _let_go(self, port: int) -> None:
        (self._registry / str(port)).unlink(missing_ok=True)
        os.close(self._held.pop(port))


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
