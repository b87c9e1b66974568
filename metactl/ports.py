"""Free ports of this machine, held against other launchers for the life of this process.

Ports lie between 20000 and 32000: below what kernels hand out to connecting sockets, so that nobody's outgoing
connection can take one. A port is held by an abstract unix socket named after it, which exists in the same network
namespace as the port, and which the kernel takes away when its process dies, however it dies; so two launchers (or two
test workers) never give out the same one, whoever runs them and wherever their temporary folders are.
"""

import atexit
import secrets
import socket
from collections.abc import Iterable

from groundwork.core.errors import BadInput

PORT_MIN = 20_000
PORT_MAX = 32_000


class PortHolder:
    """Ports given to one launcher. They are free again after close(), or when the process ends."""

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}
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
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # not inherited: a child never holds for us
        try:
            holder.bind(f"\0metasrv-port-{port}")
        except OSError:
            holder.close()
            return False
        if not _is_free(port):
            holder.close()
            return False
        self._held[port] = holder
        return True

    def close(self) -> None:
        """Give all of them back."""
        for port in list(self._held):
            self._let_go(port)

    def _let_go(self, port: int) -> None:
        self._held.pop(port).close()


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
