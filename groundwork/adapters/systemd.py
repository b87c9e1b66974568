"""Telling the service manager that this process is ready (Type=notify), without a library."""

import os
import socket


def notify(state: str) -> None:
    """Send a state such as READY=1 or STOPPING=1 where a service manager listens; nothing otherwise."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto(state.encode(), address)
