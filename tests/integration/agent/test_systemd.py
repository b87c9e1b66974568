"""Type=notify: the service manager is told, and nobody is where there is none."""

import socket
from pathlib import Path

import pytest

from groundwork.adapters.systemd import notify


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path and an abstract name both work; without a service manager it is silent."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    abstract = f"@{tmp_path.name}-{tmp_path.parent.name}"
    for address, bound in ((str(tmp_path / "s"), str(tmp_path / "s")), (abstract, "\0" + abstract[1:])):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(bound)
            manager.settimeout(5)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            notify("STOPPING=1")
            assert manager.recv(100) == b"STOPPING=1"
