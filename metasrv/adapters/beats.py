"""Heartbeats as they arrive: noted at once, answered in order, the newest only; a follower relays them to the leader.

A beat is noted before anything is awaited, so that a slow quorum never makes a healthy node look silent. Answers wait
for a round of the quorum (`confirm`) that began after the beat arrived: every answer of an older leader was sent
before its successor's election.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from groundwork.adapters.rpc import raise_if_cancelled
from groundwork.core import marks
from groundwork.core.errors import ConsensusError
from groundwork.core.ports import Clock
from metasrv.adapters.forward import Peers
from metasrv.adapters.metrics import Metrics
from metasrv.core.ports import Consensus
from protos.metasrv.v1 import heartbeat_pb2, replica_pb2
from protos.metasrv.v1.heartbeat_pb2_grpc import HeartbeatServicer
from protos.metasrv.v1.replica_pb2_grpc import ReplicasStub

log = structlog.get_logger()
RELAYED_NODES_MAX = 10_000
Who = tuple[str, int]  # node id, incarnation


class Judge(Protocol):
    """Decides about beats from the applied state and the leader's memory."""

    def note(self, beat: heartbeat_pb2.BeatRequest, heard_ms: float) -> None:
        """Remember that the node was heard at that time of this replica's clock."""
        ...

    async def answer(self, beat: heartbeat_pb2.BeatRequest) -> heartbeat_pb2.BeatReply:
        """Leader only: a grant or a refusal, after a confirmed round. Raises NotLeader."""
        ...


class Newest:
    """A mailbox for one producer and one consumer that keeps the newest message of each sender."""

    def __init__(self) -> None:
        self._waiting: dict[Who, heartbeat_pb2.BeatRequest] = {}
        self._event = asyncio.Event()
        self._closed = False

    def put(self, beat: heartbeat_pb2.BeatRequest) -> None:
        """Replace what waits from the same sender; beyond the limit of senders the beat is dropped."""
        who = (beat.sender.node_id, beat.sender.incarnation)
        if who in self._waiting or len(self._waiting) < RELAYED_NODES_MAX:
            self._waiting[who] = beat
            self._event.set()

    def close(self) -> None:
        """Let take() return an empty list once nothing waits."""
        self._closed = True
        self._event.set()

    async def take(self) -> list[heartbeat_pb2.BeatRequest]:
        """All that waits; empty once closed."""
        while not self._waiting and not self._closed:
            self._event.clear()
            await self._event.wait()
        taken = list(self._waiting.values())
        self._waiting.clear()
        return taken


class Beats(HeartbeatServicer):
    """The Heartbeat service of one replica."""

    def __init__(
        self, cluster_id: str, clock: Clock, consensus: Consensus, judge: Judge, relay: "RelayLink", metrics: Metrics
    ) -> None:
        self._cluster_id = cluster_id
        self._clock = clock
        self._consensus = consensus
        self._judge = judge
        self._relay = relay
        self._metrics = metrics

    async def Beat(self, requests: Any, context: Any) -> AsyncIterator[heartbeat_pb2.BeatReply]:
        """One agent's stream."""
        mailbox = Newest()
        reader = asyncio.create_task(self._read(requests, mailbox))
        try:
            while beats := await mailbox.take():
                for beat in beats:
                    yield await self._answer(beat)
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: Any, mailbox: Newest) -> None:
        try:
            async for beat in requests:
                self._metrics.beats.labels("direct").inc()
                if beat.sender.cluster_id == self._cluster_id:
                    self._judge.note(beat, self._clock.now_ms())
                mailbox.put(beat)
        finally:
            mailbox.close()

    async def _answer(self, beat: heartbeat_pb2.BeatRequest) -> heartbeat_pb2.BeatReply:
        if beat.sender.cluster_id != self._cluster_id:
            self._metrics.refusals.labels("foreign_cluster").inc()
            return heartbeat_pb2.BeatReply(beat=beat.beat, refusal=heartbeat_pb2.FOREIGN_CLUSTER)
        try:
            return await self._judge.answer(beat)
        except ConsensusError:
            relayed = await self._relay.relay(beat)
        if relayed is not None:
            marks.mark("grant_relayed")
            return relayed
        self._metrics.refusals.labels("not_leader").inc()
        return heartbeat_pb2.BeatReply(
            beat=beat.beat,
            term=self._consensus.leadership().term,
            leader_address=self._relay.leader_address(),
            refusal=heartbeat_pb2.NOT_LEADER,
        )


class RelayLink:
    """A follower's stream to the leader, for all the agents that it hears."""

    def __init__(
        self, cluster_id: str, clock: Clock, consensus: Consensus, peers: Peers, metrics: Metrics, patience_ms: float
    ) -> None:
        self._cluster_id = cluster_id
        self._clock = clock
        self._consensus = consensus
        self._peers = peers
        self._metrics = metrics
        self._patience_ms = patience_ms
        self._waiting: dict[Who, tuple[heartbeat_pb2.BeatRequest, float, asyncio.Future[heartbeat_pb2.BeatReply]]] = {}
        self._unsent: set[Who] = set()
        self._poke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._consensus.on_leadership(lambda _: self._poke.set())
        self._task = asyncio.create_task(self._run(), name="relay")

    async def stop(self) -> None:
        """Drop the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def failed(self) -> None:
        """Returns never; raises the defect that ended the relay: agents that reach only this replica depend on it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    def leader_address(self) -> str:
        """Of the leader as known here; empty where it is not."""
        return self._peers.addresses.get(self._consensus.leadership().leader_id or "", "")

    async def relay(self, beat: heartbeat_pb2.BeatRequest) -> heartbeat_pb2.BeatReply | None:
        """The leader's answer to this beat; None where it does not come in time."""
        leadership = self._consensus.leadership()
        if leadership.leader_id in (None, self._peers.node_id) or len(self._waiting) >= RELAYED_NODES_MAX:
            return None
        who = (beat.sender.node_id, beat.sender.incarnation)
        future: asyncio.Future[heartbeat_pb2.BeatReply] = asyncio.get_running_loop().create_future()
        self._waiting[who] = (beat, self._clock.now_ms(), future)
        self._unsent.add(who)
        self._poke.set()
        try:
            async with asyncio.timeout(self._patience_ms / 1000):
                reply = await future
        except TimeoutError:
            return None
        finally:
            if self._waiting.get(who, (None, 0, None))[2] is future:
                del self._waiting[who]
                self._unsent.discard(who)
        reply.relayed = True
        self._metrics.relayed.inc()
        return reply

    async def _run(self) -> None:
        while True:
            leader = self._consensus.leadership().leader_id
            if leader is None or leader not in self._peers.others:
                self._poke.clear()
                await self._poke.wait()
                continue
            try:
                await self._stream(leader)
            except grpc.aio.AioRpcError as error:
                raise_if_cancelled()
                log.info("relay_broken", leader_id=leader, code=error.code().name, reason=error.details())
                await self._clock.sleep(self._patience_ms / 10)
            except asyncio.InvalidStateError:
                raise_if_cancelled()
                log.info("relay_broken", leader_id=leader, code="ENDED", reason="the stream ended while it was written")
                await self._clock.sleep(self._patience_ms / 10)

    async def _stream(self, leader: str) -> None:
        call = ReplicasStub(self._peers.channel(leader)).Relay()
        reader = asyncio.create_task(self._read(call))
        reader.add_done_callback(lambda _: self._poke.set())
        try:
            while self._consensus.leadership().leader_id == leader and not reader.done():
                self._poke.clear()
                batch = self._take()
                if batch is None:
                    await self._poke.wait()
                else:
                    await call.write(batch)
            if reader.done():
                reader.result()
        finally:
            reader.cancel()
            call.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _take(self) -> replica_pb2.RelayRequest | None:
        if not self._unsent:
            return None
        now_ms = self._clock.now_ms()
        beats = []
        for who in self._unsent:
            beat, heard_ms, _ = self._waiting[who]
            beats.append(replica_pb2.RelayedBeat(beat=beat, age_ms=max(0, int(now_ms - heard_ms))))
        self._unsent.clear()
        return replica_pb2.RelayRequest(cluster_id=self._cluster_id, replica_id=self._peers.node_id, beats=beats)

    async def _read(self, call: Any) -> None:
        async for reply in call:
            for answer in reply.answers:
                beat, _, future = self._waiting.get((answer.node_id, answer.incarnation), (None, 0, None))
                if beat is not None and future is not None and beat.beat <= answer.reply.beat and not future.done():
                    future.set_result(answer.reply)
