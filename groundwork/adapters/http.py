"""An ASGI application served on the running event loop, beside gRPC."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Protocol

import uvicorn
from starlette.applications import Starlette

from groundwork.core.errors import BadInput

GRACE_S = 2.0


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the program that owns the loop owns the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone."""
        yield


class HttpFace(Protocol):
    """What a program asks of the server of its pages; a simulated process has none."""

    async def start(self) -> None:
        """Listen. Raises BadInput when the port is in use or not allowed."""
        ...

    async def stop(self) -> None:
        """Stop listening and end what is open."""
        ...


class HttpServer:
    """uvicorn on this loop."""

    def __init__(self, app: Starlette, address: str, grace_s: float = GRACE_S) -> None:
        self._address = address
        self._grace_s = grace_s
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", backlog=1024)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises BadInput when the port is in use or not allowed."""
        host, _, port = self._address.rpartition(":")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=1024)
        except OSError as error:
            raise BadInput("http_listen", f"cannot listen on {self._address}: {error.strerror}") from error
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name="http")

    async def stop(self) -> None:
        """Stop listening at once; requests under way get a moment to end, then what is open is cut off."""
        self._server.should_exit = True
        if self._task is None:
            return
        for listener in getattr(self._server, "servers", ()):
            listener.close()
        await asyncio.wait({self._task}, timeout=self._grace_s)
        self._server.force_exit = True
        await self._task
