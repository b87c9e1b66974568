"""The bookkeeping of beats, without threads or streams: what a beat says, and what an answer changes.

Shared by the heartbeat threads (heartbeat.py) and by the simulator's tasks. Whoever sends calls next_beat() and puts
the message on every stream; whoever reads calls answered(). Both may run on threads: the lease has a lock.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from datanode_agent.core.beats import Vitals, beat_request
from datanode_agent.core.lease import LeaseKeeper, Refusal, Standing
from groundwork.adapters.clock import boottime_ms
from protos.metasrv.v1 import heartbeat_pb2, types_pb2

BEATS_TIMED_MAX = 256
_REFUSALS = {
    heartbeat_pb2.NOT_LEADER: Refusal.NOT_LEADER,
    heartbeat_pb2.SUSPECTED: Refusal.SUSPECTED,
    heartbeat_pb2.SUPERSEDED: Refusal.SUPERSEDED,
    heartbeat_pb2.UNKNOWN_NODE: Refusal.UNKNOWN_NODE,
    heartbeat_pb2.FOREIGN_CLUSTER: Refusal.FOREIGN_CLUSTER,
}
Now = Callable[[], float]


class Heard(NamedTuple):
    """What one answer changed, for the loop."""

    replica: str
    leader_address: str  # empty where not known
    term: int
    incarnation: int
    standing: Standing
    admitted: frozenset[int]  # lanes that may acknowledge
    awaited_revision: int | None
    granted: bool
    refusal: Refusal | None
    round_trip_ms: float


class Lease:
    """The lease of one incarnation, as a LeaseView: mutated under a lock by threads, read by the loop without one."""

    def __init__(self, keeper: LeaseKeeper, now_ms: Now = boottime_ms) -> None:
        self.keeper = keeper
        self.lock = threading.Lock()
        self._now_ms = now_ms

    def valid(self) -> bool:
        """Whether this incarnation may serve now."""
        return self.keeper.valid(self._now_ms())

    def left_ms(self) -> float:
        """How long it still may."""
        return self.keeper.left_ms(self._now_ms())

    def applied(self, revision: int) -> bool:
        """The orders up to `revision` are applied. Whether a waiting grant counts now."""
        with self.lock:
            return self.keeper.applied(revision)

    def superseded(self) -> None:
        """Metasrv said so elsewhere: the lease ends at once."""
        with self.lock:
            self.keeper.refused(Refusal.SUPERSEDED, self._now_ms())


class Beats(Protocol):
    """What the agent asks of whatever carries its beats."""

    beats_sent: int

    def start(self) -> None:
        """Begin; nothing is sent before enrol()."""
        ...

    def enrol(self, incarnation: int, lease_ms: float, beat_ms: float, vitals: Callable[[], Vitals]) -> Lease:
        """Beat for a new incarnation from now on. Its lease, which nobody has granted yet."""
        ...

    def nudge(self) -> None:
        """Beat now."""
        ...

    def pause(self) -> None:
        """Send nothing until the next enrol()."""
        ...

    def stop(self) -> None:
        """End. May block for a moment."""
        ...


class Enrolled(NamedTuple):
    """The incarnation that beats now."""

    lease: Lease
    beat_s: float
    vitals: Callable[[], Vitals]


class Beating:
    """See the module docstring."""

    def __init__(self, cluster_id: str, node_id: str, now_ms: Now = boottime_ms) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._now_ms = now_ms
        self._beat = 0
        self._sent_ms: dict[int, float] = {}
        self.latest: heartbeat_pb2.BeatRequest | None = None
        self.enrolled: Enrolled | None = None

    def enrol(self, incarnation: int, lease_ms: float, beat_ms: float, vitals: Callable[[], Vitals]) -> Lease:
        """Beats are this incarnation's from now on."""
        lease = Lease(LeaseKeeper(incarnation, self._now_ms(), lease_ms), self._now_ms)
        self.enrolled = Enrolled(lease, beat_ms / 1000, vitals)
        return lease

    def pause(self) -> None:
        """Nobody's."""
        self.enrolled = None
        self.latest = None

    def next_beat(self, enrolled: Enrolled) -> heartbeat_pb2.BeatRequest:
        """Number the next beat, note its send time with the lease keeper, and make its message."""
        self._beat += 1
        vitals = enrolled.vitals()
        lease = enrolled.lease
        keeper = lease.keeper
        sender = types_pb2.Sender(cluster_id=self._cluster_id, node_id=self._node_id, incarnation=keeper.incarnation)
        request = beat_request(sender, self._beat, keeper.applied_revision, vitals)
        with lease.lock:
            now_ms = self._now_ms()
            keeper.sent(self._beat, now_ms, vitals.open_lanes)
        self._sent_ms[self._beat] = now_ms
        self._sent_ms.pop(self._beat - BEATS_TIMED_MAX, None)
        self.latest = request
        return request

    def answered(self, replica: str, reply: heartbeat_pb2.BeatReply) -> Heard | None:
        """Take an answer; what it changed, or None where nobody beats now."""
        enrolled = self.enrolled
        if enrolled is None:
            return None
        lease = enrolled.lease
        keeper = lease.keeper
        now_ms = self._now_ms()
        refusal = None
        with lease.lock:
            granted = reply.HasField("grant")
            if granted:
                grant = reply.grant
                keeper.granted(reply.beat, grant.lease_ms, grant.assignment_revision, grant.lanes)
            else:
                refusal = _REFUSALS.get(reply.refusal, Refusal.NOT_LEADER)
                if keeper.asked(reply.beat):
                    keeper.refused(refusal, now_ms)
            return Heard(
                replica, reply.leader_address, reply.term, keeper.incarnation, keeper.standing, keeper.admitted,
                keeper.awaited_revision, granted, refusal, now_ms - self._sent_ms.get(reply.beat, now_ms),
            )  # fmt: skip
