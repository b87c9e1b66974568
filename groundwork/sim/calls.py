"""One call on the simulated network, seen from both ends; it behaves as grpc.aio's calls do.

Locally cancelled: whoever awaits or reads it gets CancelledError. Ended by the other side: AioRpcError. Written to
after its end: InvalidStateError.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
import structlog

if TYPE_CHECKING:
    from groundwork.sim.network import Connection, SimChannel, SimServer
    from groundwork.sim.processes import ClusterLoop, SimHandle

log = structlog.get_logger()
Metadata = tuple[tuple[str, str], ...]
OK = grpc.StatusCode.OK


class MultiCallable:
    """One method of a stub."""

    def __init__(
        self, channel: "SimChannel", method: str, serialize: Any, deserialize: Any, streams_in: bool, streams_out: bool
    ) -> None:
        self._channel, self._method = channel, method
        self._serialize, self._deserialize = serialize, deserialize
        self._streams_in, self._streams_out = streams_in, streams_out

    def __call__(
        self, request: Any = None, *, timeout: float | None = None, metadata: Metadata | None = None, **_: Any
    ) -> "ClientCall":
        """Call it."""
        call = ClientCall(
            self._channel, self._method, self._serialize, self._deserialize, self._streams_in, self._streams_out
        )
        call.begin(None if self._streams_in else self._serialize(request), timeout, tuple(metadata or ()))
        return call


class ClientCall:
    """The caller's end."""

    def __init__(
        self, channel: "SimChannel", method: str, serialize: Any, deserialize: Any, streams_in: bool, streams_out: bool
    ) -> None:
        self._channel, self._method = channel, method
        self._serialize, self._deserialize = serialize, deserialize
        self._streams_in, self._streams_out = streams_in, streams_out
        self._connection: Connection | None = None
        self._peer: ServerCall | None = None
        self._number = 0
        self._inbox: deque[bytes] = deque()
        self._waiting: list[asyncio.Future[None]] = []
        self._status: tuple[grpc.StatusCode, str, Metadata] | None = None
        self._cancelled = False
        self._timer: SimHandle | None = None

    def begin(self, body: bytes | None, timeout_s: float | None, metadata: Metadata) -> None:
        """Send the head of the call, with the request where there is only one."""
        loop = self._channel.fabric.loop
        self._channel.process.effect()
        if timeout_s is not None:
            self._timer = loop.call_later(timeout_s, self._expired, context=self._channel.process.context)
        found = self._channel.connect()
        if isinstance(found, float):
            why = "failed to connect to all addresses"
            loop.call_later(
                found, self.end, grpc.StatusCode.UNAVAILABLE, why, (), context=self._channel.process.context
            )
            return
        self._connection = found
        self._number = found.number()
        found.calls[self._number] = self
        until_s = None if timeout_s is None else loop.time() + timeout_s
        self._peer = ServerCall(found, self, self._method, self._streams_in, self._streams_out, until_s, metadata)
        found.send(True, self._peer.arrived, self._number, body)

    # ---------------------------------------------------------------- what arrives

    def message(self, body: bytes) -> None:
        """One reply."""
        if self._status is None:
            self._inbox.append(body)
            self._tell()

    def end(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        """The status."""
        if self._status is not None:
            return
        self._status = (code, details, trailing)
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.calls.pop(self._number, None)
        self._tell()

    def reply(self, body: bytes) -> None:
        """The one reply, with a good status."""
        self.message(body)
        self.end(OK, "", ())

    def _expired(self) -> None:
        if self._status is None:
            self._hang_up()
            self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)

    def _hang_up(self) -> None:
        if self._connection is not None and self._peer is not None and self._channel.process.alive:
            self._connection.send(True, self._peer.cancelled_by_peer)

    # ---------------------------------------------------------------- what the caller does

    def cancel(self) -> bool:
        """Give up; False where it has ended."""
        if self._status is not None:
            return False
        self._cancelled = True
        self._hang_up()
        self.end(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ())
        return True

    def done(self) -> bool:
        """Whether it has ended."""
        return self._status is not None

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._cancelled

    async def code(self) -> grpc.StatusCode:
        """The status, once it has ended."""
        while self._status is None:
            await self._wait()
        return self._status[0]

    async def details(self) -> str:
        """What the status says, once it has ended."""
        await self.code()
        assert self._status is not None
        return self._status[1]

    async def write(self, request: Any) -> None:
        """Send one more message."""
        if self._status is not None:
            if self._status[0] is not OK and not self._cancelled:
                self._raise()
            raise asyncio.InvalidStateError("RPC already finished.")
        await asyncio.sleep(0)
        if self._connection is not None and self._peer is not None and self._status is None:
            self._connection.send(True, self._peer.message, self._serialize(request))

    async def done_writing(self) -> None:
        """There will be no more messages."""
        if self._connection is not None and self._peer is not None and self._status is None:
            self._connection.send(True, self._peer.half_closed)

    async def read(self) -> Any:
        """The next reply, or EOF."""
        while not self._inbox:
            if self._status is not None:
                if self._status[0] is OK:
                    return grpc.aio.EOF
                self._raise()
            await self._wait()
        return self._deserialize(self._inbox.popleft())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._replies()

    async def _replies(self) -> AsyncIterator[Any]:
        while (reply := await self.read()) is not grpc.aio.EOF:
            yield reply

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only().__await__()

    async def _only(self) -> Any:
        while self._status is None:
            await self._wait()
        if self._status[0] is not OK:
            self._raise()
        return self._deserialize(self._inbox.popleft())

    async def _wait(self) -> None:
        news = self._channel.fabric.loop.create_future()
        self._waiting.append(news)  # one for each that waits: a task that is cancelled cancels what it awaits
        try:
            await news
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _raise(self) -> NoReturn:
        assert self._status is not None
        if self._cancelled:
            raise asyncio.CancelledError
        code, details, trailing = self._status
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


class ServerCall:
    """The server's end, and the context that its handler gets."""

    def __init__(
        self, connection: "Connection", client: ClientCall, method: str, streams_in: bool, streams_out: bool,
        until_s: float | None, metadata: Metadata,
    ) -> None:  # fmt: skip
        self._connection, self._client, self._method = connection, client, method
        self._streams_in, self._streams_out = streams_in, streams_out
        self._until_s = until_s
        self._metadata = metadata
        self._server: SimServer = connection.server
        self._inbox: deque[bytes] = deque()
        self._half_closed = False
        self._news: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self.done = False

    # ---------------------------------------------------------------- what arrives

    def arrived(self, number: int, body: bytes | None) -> None:
        """The head of the call."""
        self._number = number
        if body is not None:
            self._inbox.append(body)
        self._connection.handled[number] = self
        self._server.accept(self)

    def message(self, body: bytes) -> None:
        """One more request."""
        self._inbox.append(body)
        self._tell()

    def half_closed(self) -> None:
        """There are no more requests."""
        self._half_closed = True
        self._tell()

    def cancelled_by_peer(self) -> None:
        """The caller gave up, or the connection broke."""
        self._finished()
        if self._task is not None:
            self._task.cancel()

    def abandon(self, code: grpc.StatusCode, why: str) -> None:
        """The server stops."""
        if not self.done:
            self._status(code, why, ())
            if self._task is not None:
                self._task.cancel()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # ---------------------------------------------------------------- the handler

    def start(self, loop: "ClusterLoop") -> None:
        """Run the handler."""
        context: contextvars.Context = self._server.process.context.copy()
        self._task = loop.create_task(self._handle(), name=self._method, context=context)

    async def _handle(self) -> None:
        try:
            handler = await self._server.handler(self._method, self._metadata)
            if handler is None:
                self._status(grpc.StatusCode.UNIMPLEMENTED, f"no method {self._method}", ())
            elif not self._streams_out:
                reply = await handler.unary_unary(handler.request_deserializer(self._inbox.popleft()), self)
                self._send(self._client.reply, handler.response_serializer(reply))
                self._finished()
            else:
                await self._stream(handler)
                self._status(OK, "", ())
        except grpc.aio.AbortError:
            self._finished()
        except asyncio.CancelledError:
            self._status(grpc.StatusCode.CANCELLED, "the handler was cancelled", ())
            raise
        except Exception as error:
            log.exception("handler_failed", method=self._method)
            self._status(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}", ())

    async def _stream(self, handler: Any) -> None:
        if self._streams_in:
            replies = handler.stream_stream(self._requests(handler.request_deserializer), self)
        else:
            replies = handler.unary_stream(handler.request_deserializer(self._inbox.popleft()), self)
        try:
            async for reply in replies:
                self._send(self._client.message, handler.response_serializer(reply))
        finally:
            await replies.aclose()

    async def _requests(self, deserialize: Any) -> AsyncIterator[Any]:
        while True:
            while not self._inbox:
                if self._half_closed:
                    return
                self._news = asyncio.get_running_loop().create_future()
                await self._news
            yield deserialize(self._inbox.popleft())

    def _send(self, arrive: Any, *args: Any) -> None:
        if not self.done:
            self._connection.send(False, arrive, *args)

    def _status(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        self._send(self._client.end, code, details, trailing)
        self._finished()

    def _finished(self) -> None:
        self.done = True
        self._connection.handled.pop(self._number, None)

    # ---------------------------------------------------------------- grpc.aio.ServicerContext

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with a status."""
        self._status(code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline."""
        return None if self._until_s is None else max(0.0, self._until_s - asyncio.get_running_loop().time())

    def invocation_metadata(self) -> Metadata:
        """What the caller sent besides."""
        return self._metadata

    def auth_context(self) -> dict[str, Any]:
        """Plain text: nobody is proven."""
        return {}
