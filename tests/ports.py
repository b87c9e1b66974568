"""Free TCP ports for parallel test processes: each is held by a locked file while the test process lives."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 20_000, 32_000
_held: list[int] = []  # descriptors: the locks go when this process ends


def free_ports(n: int) -> list[int]:
    """`n` ports on 127.0.0.1 that nobody listens on now and that no other test process will be given."""
    folder = Path(tempfile.gettempdir()) / "metasrv-ports"
    folder.mkdir(exist_ok=True)
    found: list[int] = []
    for port in random.Random(os.urandom(8)).sample(range(FIRST, LAST), LAST - FIRST):
        if len(found) == n:
            return found
        descriptor = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        if _locked(descriptor) and _unused(port):
            _held.append(descriptor)
            found.append(port)
        else:
            os.close(descriptor)
    raise RuntimeError(f"no {n} free ports from {FIRST} to {LAST}")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
