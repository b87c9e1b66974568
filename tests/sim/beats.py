"""Heartbeats as tasks of the loop: the threads of datanode_agent/adapters/heartbeat.py, in virtual time.

The bookkeeping is the real one (Beating); only what the threads do with it is told again: a ticker, one mailbox and one
stream a replica.
"""

import asyncio
from collections.abc import Callable, Sequence

import grpc
import grpc.aio

from datanode_agent.adapters.beating import Beating, Heard, Lease
from datanode_agent.adapters.heartbeat import BACKOFF_S_FIRST, BACKOFF_S_MAX, NUDGE_GAP_S
from datanode_agent.core.beats import Vitals
from groundwork.adapters.rpc import aio_channel
from groundwork.core.ports import Clock
from protos.metasrv.v1 import heartbeat_pb2, heartbeat_pb2_grpc


class _Link:
    """The stream to one replica, and room for the newest beat."""

    def __init__(self, address: str, beating: Beating, heard: Callable[[str, heartbeat_pb2.BeatReply], None]) -> None:
        self._address = address
        self._beating = beating
        self._heard = heard
        self._beat: heartbeat_pb2.BeatRequest | None = None
        self._changed = asyncio.Event()

    def put(self, beat: heartbeat_pb2.BeatRequest) -> None:
        """Replace what waits."""
        self._beat = beat
        self._changed.set()

    async def run(self) -> None:
        """Keep a stream open."""
        backoff_s = BACKOFF_S_FIRST
        stub = heartbeat_pb2_grpc.HeartbeatStub(aio_channel(self._address, None))
        while True:
            call = stub.Beat()
            if self._beating.latest is not None:
                self.put(self._beating.latest)
            writer = asyncio.create_task(self._write(call))
            try:
                async for reply in call:
                    backoff_s = BACKOFF_S_FIRST
                    self._heard(self._address, reply)
            except grpc.aio.AioRpcError:
                pass
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _write(
        self, call: "grpc.aio.StreamStreamCall[heartbeat_pb2.BeatRequest, heartbeat_pb2.BeatReply]"
    ) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            beat, self._beat = self._beat, None
            if beat is not None:
                await call.write(beat)


class TaskBeats:
    """The Beats of a simulated agent."""

    def __init__(
        self, replicas: Sequence[str], cluster_id: str, node_id: str, clock: Clock, on_heard: Callable[[Heard], None]
    ) -> None:
        self._beating = Beating(cluster_id, node_id, clock.now_ms)
        self._on_heard = on_heard
        self._wake = asyncio.Event()
        self._links = [_Link(address, self._beating, self._reply) for address in replicas]
        self._tasks: list[asyncio.Task[None]] = []
        self._now_ms = clock.now_ms
        self._sent_ms: dict[int, float] = {}  # beat of this incarnation -> when it left
        self.leased_until_ms = 0.0  # by the rule, counted here apart from the product, on the node's own clock
        self.beats_sent = 0
        self.began_s: float | None = None  # by the loop's time: the process was told its first incarnation

    @property
    def lease(self) -> Lease | None:
        """Of the incarnation that beats now."""
        enrolled = self._beating.enrolled
        return None if enrolled is None else enrolled.lease

    def start(self) -> None:
        """Start the tasks."""
        self._tasks = [asyncio.create_task(work) for work in (self._tick(), *(link.run() for link in self._links))]

    def enrol(self, incarnation: int, lease_ms: float, beat_ms: float, vitals: Callable[[], Vitals]) -> Lease:
        """See Beats."""
        lease = self._beating.enrol(incarnation, lease_ms, beat_ms, vitals)
        self._sent_ms.clear()
        self.leased_until_ms = 0.0
        if self.began_s is None:
            self.began_s = asyncio.get_running_loop().time()
        self._wake.set()
        return lease

    def nudge(self) -> None:
        """See Beats."""
        self._wake.set()

    def pause(self) -> None:
        """See Beats."""
        self._beating.pause()

    def stop(self) -> None:
        """See Beats."""
        self._beating.pause()
        for task in self._tasks:
            task.cancel()

    async def _tick(self) -> None:
        wait_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            enrolled = self._beating.enrolled
            if enrolled is None:
                wait_s = None
                continue
            request = self._beating.next_beat(enrolled)
            self._sent_ms[request.beat] = self._now_ms()
            self.beats_sent += 1
            for link in self._links:
                link.put(request)
            await asyncio.sleep(NUDGE_GAP_S)
            wait_s = max(0.001, enrolled.beat_s - NUDGE_GAP_S)

    def _reply(self, replica: str, reply: heartbeat_pb2.BeatReply) -> None:
        if reply.HasField("grant") and reply.beat in self._sent_ms:
            self.leased_until_ms = max(self.leased_until_ms, self._sent_ms[reply.beat] + reply.grant.lease_ms)
        heard = self._beating.answered(replica, reply)
        if heard is not None:
            self._on_heard(heard)
