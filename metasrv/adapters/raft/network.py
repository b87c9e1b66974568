"""The streams between replicas: each dials every other and sends on what it dialled, over mutual TLS where configured.

A stream is in order and at most once; when it breaks, everything that waited for it is dropped. Both ends name
cluster, sender and addressee first, so that an address used again, or a replica of another cluster, is refused.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import grpc.aio
import structlog

from groundwork.adapters import rpc
from groundwork.core.errors import BadInput, ForeignCluster
from metasrv.adapters.raft import codec
from metasrv.adapters.raft.config import RaftConfig
from protos.raft.v1 import raft_pb2 as pb
from protos.raft.v1 import raft_pb2_grpc as pb_grpc

log = structlog.get_logger()
_FRAME_BYTES_MAX = 8 << 20
_HELLO_S = 2.0
_HELLO = pb.Message(hello=pb.Hello())
Event = Callable[[str], None]
Receive = Callable[[str, Sequence[pb.Message]], None]


class _Outlet:
    """What waits for one peer, and its stream while there is one."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._queue: deque[tuple[pb.Message, int]] = deque()
        self.queued_bytes = 0
        self._ready = asyncio.Event()
        self._broken = False
        self.open = False

    def put(self, messages: Sequence[pb.Message]) -> bool:
        """Queue; False when the peer takes too little, too slowly."""
        for message in messages:
            size = message.ByteSize()
            self._queue.append((message, size))
            self.queued_bytes += size
        self._ready.set()
        return self.queued_bytes <= self._bytes_max

    async def take(self) -> list[pb.Message]:
        """Wait for something, and return up to a frame's worth. Raises TimeoutError once the stream has broken."""
        await self._ready.wait()
        if self._broken:
            raise TimeoutError("the stream broke")
        taken: list[pb.Message] = []
        size = 0
        while self._queue and (not taken or size + self._queue[0][1] <= _FRAME_BYTES_MAX):
            message, bytes_ = self._queue.popleft()
            taken.append(message)
            size += bytes_
        self.queued_bytes -= size
        if not self._queue:
            self._ready.clear()
        return taken

    def clear(self) -> None:
        """Drop everything; a new stream may begin."""
        self._queue.clear()
        self.queued_bytes = 0
        self._ready.clear()
        self._broken = False

    def stop(self) -> None:
        """The stream has broken: whoever waits in take() must know."""
        self._broken = True
        self._ready.set()


class Network(pb_grpc.RaftServicer):
    """One replica's streams, in both directions. Calls back on the loop."""

    def __init__(
        self, config: RaftConfig, linked: Event, unlinked: Event, receive: Receive, defect: Callable[[str], None]
    ) -> None:
        self._config = config
        self._defect = defect
        self._linked, self._unlinked, self._receive = linked, unlinked, receive
        self._outlets: dict[str, _Outlet] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: dict[str, grpc.aio.StreamStreamCall[pb.Frame, pb.Frame]] = {}
        self._incoming: dict[str, object] = {}
        self._running = False

    # ---------------------------------------------------------------- dialling

    def start(self) -> None:
        """Dial the other replicas, and go on dialling."""
        self._running = True
        for peer in self._config.others:
            self._outlets[peer] = _Outlet(self._config.limits.peer_queue_bytes_max)
            task = asyncio.create_task(self._dial(peer), name=f"raft-{peer}")
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """End every stream."""
        self._running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A replica that has stopped dialling a peer for good would be deaf to elections, and nobody would know."""
        error = None if task.cancelled() else task.exception()
        if self._running and error is not None:
            log.error("raft_dialling_failed", exc_info=error)
            self._defect(f"{task.get_name()} ended: {error!r}")

    def send(self, peer: str, messages: list[pb.Message]) -> None:
        """Queue for one peer; nothing is kept for a peer without a stream."""
        outlet = self._outlets[peer]
        if not outlet.open or outlet.put(messages):
            return
        outlet.clear()
        log.warning("raft_stream_cut", peer=peer, reason="it takes too little: its queue is full")
        call = self._calls.get(peer)
        if call is not None:
            call.cancel()

    def backlog(self, peer: str) -> int:
        """The bytes that wait for a peer."""
        return self._outlets[peer].queued_bytes

    async def _dial(self, peer: str) -> None:
        address = self._config.peers[peer]
        reported = ""
        async with rpc.aio_channel(address, self._config.tls, server_name=peer) as channel:
            # Asked again each turn: gRPC may turn the cancellation of this task into an error of the call.
            while self._running:
                try:
                    await self._stream(peer, pb_grpc.RaftStub(channel))
                except grpc.aio.AioRpcError as error:
                    known = error.code() is grpc.StatusCode.UNAVAILABLE or error.details() == reported
                    if self._running and not known:
                        reported = error.details() or ""
                        log.warning("raft_peer_refused", peer=peer, address=address, reason=reported)
                except TimeoutError as error:
                    log.info("raft_stream_ended", peer=peer, reason=str(error) or "no answer")
                except (BadInput, ForeignCluster) as error:
                    if str(error) != reported:
                        reported = str(error)
                        log.warning("raft_peer_wrong", peer=peer, address=address, reason=reported)
                await asyncio.sleep(self._config.append_period_ms / 1000)

    async def _stream(self, peer: str, stub: "pb_grpc.RaftAsyncStub") -> None:
        call = stub.Peer()
        self._calls[peer] = call
        outlet = self._outlets[peer]
        watcher: asyncio.Task[None] | None = None
        try:
            await call.write(self._frame(peer, [_HELLO]))
            async with asyncio.timeout(_HELLO_S):
                reply = await call.read()
            if not isinstance(reply, pb.Frame):
                raise BadInput("peer", f"{(await call.code()).name}: {await call.details()}")
            codec.check_frame(reply, self._config.cluster_id, peer, self._config.node_id)
            outlet.clear()
            watcher = asyncio.create_task(_watch(call, outlet))
            outlet.open = True
            self._linked(peer)
            while True:
                await call.write(self._frame(peer, await outlet.take()))
        except (asyncio.CancelledError, asyncio.InvalidStateError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # else it was the call that was cancelled, not this task
        finally:
            if outlet.open:
                outlet.open = False
                self._unlinked(peer)
            if watcher is not None:
                watcher.cancel()
            call.cancel()

    def _frame(self, peer: str, messages: list[pb.Message]) -> pb.Frame:
        return codec.frame(self._config.cluster_id, self._config.node_id, peer, messages)

    # ---------------------------------------------------------------- being dialled

    async def Peer(
        self, request_iterator: AsyncIterator[pb.Frame], context: grpc.aio.ServicerContext[pb.Frame, pb.Frame]
    ) -> AsyncIterator[pb.Frame]:
        """Take one peer's stream. A newer stream of the same peer ends the older one."""
        peer: str | None = None
        mine = object()
        try:
            async for frame in request_iterator:
                if not self._running:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica has not started or is stopping")
                codec.check_frame(frame, self._config.cluster_id, peer, self._config.node_id)
                if peer is None:
                    peer = self._admit(frame, context)
                    self._incoming[peer] = mine
                    yield self._frame(peer, [_HELLO])
                elif self._incoming.get(peer) is not mine:
                    await context.abort(grpc.StatusCode.ABORTED, "a newer stream took this one's place")
                else:
                    self._receive(peer, frame.messages)
        except asyncio.CancelledError:
            return  # the other side hung up, or this server is stopping: nothing is owed to a stream
        except (BadInput, ForeignCluster) as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))

    def _admit(self, frame: pb.Frame, context: grpc.aio.ServicerContext[pb.Frame, pb.Frame]) -> str:
        peer = frame.from_id
        if peer not in self._config.others:
            raise BadInput("from_id", f"{peer!r} is not one of the other replicas: {', '.join(self._config.others)}")
        if self._config.tls is not None:
            names = _certificate_names(context.auth_context())
            if peer not in names:
                raise BadInput("from_id", f"the certificate is for {', '.join(sorted(names)) or 'nobody'}, not {peer}")
        return peer


async def _watch(call: "grpc.aio.StreamStreamCall[pb.Frame, pb.Frame]", outlet: _Outlet) -> None:
    """The other side sends nothing after its hello: whatever read() returns means that the stream is over."""
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        log.info("raft_stream_failed", reason=error.details())
    finally:
        outlet.stop()


def _certificate_names(auth_context: object) -> set[str]:
    """The common name and the alternative names of the caller's certificate."""
    if not isinstance(auth_context, dict):
        return set()
    values = [*auth_context.get("x509_common_name", ()), *auth_context.get("x509_subject_alternative_name", ())]
    return {value.decode(errors="replace") for value in values}
