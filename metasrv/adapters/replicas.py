"""Between replicas: the leader answers beats that followers relay, and followers tell a new leader what they heard."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import structlog

from groundwork.core.errors import ConsensusError
from groundwork.core.ports import Clock
from metasrv.adapters.beats import Judge, Newest
from metasrv.adapters.metrics import Metrics
from protos.metasrv.v1 import heartbeat_pb2, replica_pb2
from protos.metasrv.v1.replica_pb2_grpc import ReplicasServicer

log = structlog.get_logger()


class HeardBook:
    """When this replica last heard each node, whoever leads. Bounded by the nodes that there are."""

    def __init__(self, clock: Clock, nodes_max: int = 100_000) -> None:
        self._clock = clock
        self._nodes_max = nodes_max
        self._heard: dict[str, tuple[int, float]] = {}
        self._since_ms = clock.now_ms()

    def note(self, node_id: str, incarnation: int, heard_ms: float) -> None:
        """Keep the latest, and the newest incarnation."""
        held = self._heard.get(node_id)
        if (held is None and len(self._heard) < self._nodes_max) or (
            held is not None and (incarnation, heard_ms) > held
        ):
            self._heard[node_id] = (incarnation, heard_ms)

    def entries(self) -> Iterable[tuple[str, int, float]]:
        """(node id, incarnation, heard at) of all."""
        return [(node_id, incarnation, heard_ms) for node_id, (incarnation, heard_ms) in self._heard.items()]

    def reply(self) -> replica_pb2.HeardReply:
        """For a new leader."""
        now_ms = self._clock.now_ms()
        return replica_pb2.HeardReply(
            nodes=[
                replica_pb2.HeardNode(node_id=n, incarnation=i, age_ms=max(0, int(now_ms - at)))
                for n, i, at in self.entries()
            ],
            listening_ms=max(0, int(now_ms - self._since_ms)),
        )


class Replicas(ReplicasServicer):
    """The service that replicas offer each other."""

    def __init__(self, clock: Clock, judge: Judge, heard: HeardBook, metrics: Metrics) -> None:
        self._clock = clock
        self._judge = judge
        self._heard = heard
        self._metrics = metrics

    async def Heard(self, request: replica_pb2.HeardRequest, context: Any) -> replica_pb2.HeardReply:
        """What did you hear, and how long ago?"""
        return self._heard.reply()

    async def Relay(self, requests: Any, context: Any) -> AsyncIterator[replica_pb2.RelayReply]:
        """One follower's stream: beats come in batches, answers go out as one batch a confirmed round."""
        mailbox = Newest()
        reader = asyncio.create_task(self._read(requests, mailbox))
        try:
            while beats := await mailbox.take():
                answers = await asyncio.gather(*(self._answer(beat) for beat in beats))
                found = [answer for answer in answers if answer is not None]
                if found:
                    yield replica_pb2.RelayReply(answers=found)
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: Any, mailbox: Newest) -> None:
        try:
            async for request in requests:
                now_ms = self._clock.now_ms()
                for relayed in request.beats:
                    self._metrics.beats.labels("relayed").inc()
                    self._judge.note(relayed.beat, now_ms - relayed.age_ms)
                    mailbox.put(relayed.beat)
        finally:
            mailbox.close()

    async def _answer(self, beat: heartbeat_pb2.BeatRequest) -> replica_pb2.RelayedAnswer | None:
        try:
            reply = await self._judge.answer(beat)
        except ConsensusError as error:
            log.debug("relayed_beat_not_answered", node_id=beat.sender.node_id, reason=str(error))
            return None
        return replica_pb2.RelayedAnswer(node_id=beat.sender.node_id, incarnation=beat.sender.incarnation, reply=reply)
