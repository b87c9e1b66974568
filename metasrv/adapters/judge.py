"""What a heartbeat is answered: noted first, then a confirmed round, then the core decides from the applied state."""

from collections.abc import Callable

from groundwork.core.errors import NotLeader
from groundwork.core.ports import Clock
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.to_wire import beat_from_wire, grant_to_wire, refusal_to_wire
from metasrv.core.leases import Grant, LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.ports import Consensus
from metasrv.core.records import NodeStatus
from protos.metasrv.v1 import heartbeat_pb2


class LeaseJudge:
    """The Judge of metasrv.adapters.beats. `poke` wakes the leader's loop: a suspect was heard."""

    def __init__(
        self,
        *,
        clock: Clock,
        consensus: Consensus,
        machine: Machine,
        book: LeaseBook,
        metrics: Metrics,
        address: str,
        poke: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._consensus = consensus
        self._machine = machine
        self._book = book
        self._metrics = metrics
        self._address = address
        self._poke = poke

    def note(self, beat: heartbeat_pb2.BeatRequest, heard_ms: float) -> None:
        """Remember that the node was heard at that time of this replica's clock."""
        now_ms = self._clock.now_ms()
        self._book.heard(beat_from_wire(beat), now_ms, max(0.0, now_ms - heard_ms))
        node = self._machine.state.nodes.get(beat.sender.node_id)
        if node is not None and node.status is NodeStatus.SUSPECT and node.incarnation == beat.sender.incarnation:
            self._poke()

    async def answer(self, beat: heartbeat_pb2.BeatRequest) -> heartbeat_pb2.BeatReply:
        """A grant or a refusal. Raises NotLeader."""
        leadership = self._consensus.leadership()
        if not leadership.is_leader:
            raise NotLeader(leadership.leader_id)
        # The round must begin after the beat arrived (DESIGN §5): this is after, and nothing is cached.
        term = await self._consensus.confirm()
        verdict = self._book.decide(self._machine.state, beat_from_wire(beat))
        reply = heartbeat_pb2.BeatReply(beat=beat.beat, term=term, leader_address=self._address)
        if isinstance(verdict, Grant):
            self._metrics.grants.inc()
            reply.grant.CopyFrom(grant_to_wire(verdict))
        else:
            self._metrics.refusals.labels(verdict.name.lower()).inc()
            reply.refusal = refusal_to_wire(verdict)
        return reply
