"""Beats on threads of their own, with synchronous channels of their own, to every metasrv replica.

One thread ticks: it numbers the beat, notes its send time with the lease keeper and puts it into one mailbox a replica.
A mailbox holds one beat, the newest: a replica that is dead, hung or slow delays nobody, and gets a fresh beat when it
is back. One thread a replica keeps the stream open and reads answers. The loop is never waited for; it reads the lease
as one number, and is woken for what it has to act on.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grpc
import structlog

from datanode_agent.adapters.beating import Beating, Heard, Lease
from datanode_agent.core.beats import Vitals
from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import sync_channel
from protos.metasrv.v1 import heartbeat_pb2, heartbeat_pb2_grpc

log = structlog.get_logger()
T = TypeVar("T")

BACKOFF_S_FIRST = 0.05
BACKOFF_S_MAX = 0.5
NUDGE_GAP_S = 0.02
_JOIN_S = 5.0


class _Mailbox:
    """Room for one beat: the newest. Iterated by the stream's writer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beat: heartbeat_pb2.BeatRequest | None = None
        self._closed = False

    def put(self, beat: heartbeat_pb2.BeatRequest) -> None:
        with self._changed:
            self._beat = beat
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def __iter__(self) -> Iterator[heartbeat_pb2.BeatRequest]:
        while True:
            with self._changed:
                while self._beat is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                beat, self._beat = self._beat, None
            if beat is not None:
                yield beat


class _Link(threading.Thread):
    """The stream to one replica: opened again and again until it is closed."""

    def __init__(
        self,
        address: str,
        tls: TlsConfig | None,
        latest: Callable[[], heartbeat_pb2.BeatRequest | None],
        on_reply: Callable[[str, heartbeat_pb2.BeatReply], None],
    ) -> None:
        super().__init__(name=f"beat-{address}", daemon=True)
        self._address = address
        self._latest = latest
        self._on_reply = on_reply
        self._closing = threading.Event()
        self._channel = sync_channel(address, tls)
        self._mailbox = _Mailbox()
        self._context = contextvars.copy_context()  # so that this thread's log lines name the process too

    def send(self, beat: heartbeat_pb2.BeatRequest) -> None:
        """Leave the newest beat for the writer. Never blocks."""
        self._mailbox.put(beat)

    def close(self) -> None:
        """End the stream and the thread."""
        self._closing.set()
        self._mailbox.close()
        self._channel.close()

    def run(self) -> None:
        """Keep a stream open; read answers."""
        self._context.run(self._keep_open)

    def _keep_open(self) -> None:
        backoff_s = BACKOFF_S_FIRST
        stub = heartbeat_pb2_grpc.HeartbeatStub(self._channel)
        down = False
        while not self._closing.is_set():
            self._mailbox = mailbox = _Mailbox()
            latest = self._latest()
            if latest is not None:
                mailbox.put(latest)
            why = "stream ended"
            try:
                for reply in stub.Beat(iter(mailbox)):
                    if down:
                        log.info("replica_answers", replica=self._address)
                    backoff_s, down = BACKOFF_S_FIRST, False
                    self._on_reply(self._address, reply)
            except grpc.RpcError as error:
                why = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
            except ValueError as error:  # "Cannot invoke RPC on closed channel!": close() came first
                why = str(error)
            finally:
                mailbox.close()
            if not down and not self._closing.is_set():
                down = True
                log.warning("replica_away", replica=self._address, why=why)
            self._closing.wait(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)


class Heartbeats:
    """All of the above, for one process.

    On the loop, `on_heard` is called for every answer, and `on_crash` when a defect ended the beats: the process must
    end then, for a datanode that no longer beats would be taken for dead while it lives.
    """

    def __init__(
        self, replicas: Sequence[str], tls: TlsConfig | None, cluster_id: str, node_id: str,
        loop: asyncio.AbstractEventLoop, on_heard: Callable[[Heard], None], on_crash: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self._beating = Beating(cluster_id, node_id)
        self._loop = loop
        self._on_heard = on_heard
        self._on_crash = on_crash
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._links = [_Link(address, tls, lambda: self._beating.latest, self._reply) for address in replicas]
        self._ticker = threading.Thread(
            target=contextvars.copy_context().run, args=(self._tick,), name="beats", daemon=True
        )
        self.beats_sent = 0

    def start(self) -> None:
        """Start the threads; nothing is sent before enrol()."""
        for link in self._links:
            link.start()
        self._ticker.start()

    def enrol(self, incarnation: int, lease_ms: float, beat_ms: float, vitals: Callable[[], Vitals]) -> Lease:
        """Beat for a new incarnation from now on. Its lease, which nobody has granted yet.

        `vitals` is called on the heartbeat thread whenever a beat leaves: it must only read plain numbers.
        """
        lease = self._beating.enrol(incarnation, lease_ms, beat_ms, vitals)
        self._wake.set()
        return lease

    def nudge(self) -> None:
        """Beat now: there is something that metasrv should know at once, as a lane that was opened."""
        self._wake.set()

    def pause(self) -> None:
        """Send nothing until the next enrol()."""
        self._beating.pause()

    def stop(self) -> None:
        """End all threads. Blocks for a moment: run it in a worker."""
        self._closing.set()
        self._beating.pause()
        self._wake.set()
        for link in self._links:
            link.close()
        for thread in (self._ticker, *self._links):
            if thread.is_alive():
                thread.join(_JOIN_S)

    def _tick(self) -> None:
        wait_s: float | None = None
        while not self._closing.is_set():
            self._wake.wait(wait_s)
            self._wake.clear()
            enrolled = self._beating.enrolled
            if enrolled is None:
                wait_s = None
                continue
            try:
                request = self._beating.next_beat(enrolled)
            except Exception as error:
                log.exception("beats_crashed")
                self._call(self._on_crash, error)
                raise
            self.beats_sent += 1
            for link in self._links:
                link.send(request)
            self._closing.wait(NUDGE_GAP_S)
            wait_s = max(0.001, enrolled.beat_s - NUDGE_GAP_S)

    def _reply(self, replica: str, reply: heartbeat_pb2.BeatReply) -> None:
        heard = self._beating.answered(replica, reply)
        if heard is not None:
            self._call(self._on_heard, heard)

    def _call(self, callback: Callable[[T], None], what: T) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, what)
        except RuntimeError as error:  # the loop is closed: the process is leaving
            log.debug("loop_closed", why=str(error))
