"""Between replicas: the leader answers beats that followers relay, and followers tell a new leader what they heard."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog

from groundwork.core.errors import ConsensusError
from groundwork.core.ports import Clock
from metasrv.adapters.beats import Judge, Newest
from metasrv.adapters.metrics import Metrics
from metasrv.core.leases import LeaseBook, Past
from metasrv.core.ports import Consensus
from protos.metasrv.v1 import heartbeat_pb2, replica_pb2
from protos.metasrv.v1.replica_pb2_grpc import ReplicasServicer

log = structlog.get_logger()


class Replicas(ReplicasServicer):
    """The service that replicas offer each other."""

    def __init__(self, clock: Clock, consensus: Consensus, judge: Judge, book: LeaseBook, metrics: Metrics) -> None:
        self._clock = clock
        self._consensus = consensus
        self._judge = judge
        self._book = book
        self._since_ms = clock.now_ms()
        self._metrics = metrics

    async def Heard(self, request: replica_pb2.HeardRequest, context: Any) -> replica_pb2.HeardReply:
        """What did you hear, and how long ago?"""
        now_ms, past = self._clock.now_ms(), self.past()
        self._book.awake(now_ms)  # the question may be what woke it
        heard = (
            replica_pb2.HeardNode(node_id=h.node_id, incarnation=h.incarnation, age_ms=max(0, int(h.age_ms)))
            for h in self._book.memory(now_ms)
        )
        leaders = (
            replica_pb2.HeardLeader(replica_id=leader_id, age_ms=max(0, int(ago_ms)))
            for leader_id, ago_ms in sorted(past.led_ago_ms.items())
        )
        return replica_pb2.HeardReply(
            nodes=heard, listening_ms=max(0, int(past.listening_ms)), term=past.term, leaders=leaders
        )

    def past(self) -> Past:
        """What this replica knows of the leaders before."""
        listening_ms = self._clock.now_ms() - self._since_ms
        return Past(self._consensus.leadership().term, self._consensus.led_ago_ms(), listening_ms)

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
