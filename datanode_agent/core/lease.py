"""The lease of one incarnation, as its agent keeps it.

Theory of operation. The agent sends numbered beats; a leader answers some with a grant. A grant is worth `lease_ms`
counted from when *this agent sent* that beat, on a clock that goes on through suspend: the leader began its count
later, so the agent's lease ends first whatever the network did, and no wall clock is asked. A grant names the node's
assignment revision, and counts for nothing until the agent has applied that revision: it is kept pending until then.
A lane may acknowledge appends only once a grant names it that answers a beat sent after the lane's OPEN was durable.

A keeper belongs to one incarnation and starts without a lease (T8). Once refused as superseded it never grants again;
without any answer it merely runs out, and goes on when it is renewed (P7).
"""

import enum
from collections.abc import Iterable
from typing import NamedTuple, Protocol

BEATS_REMEMBERED_MAX = 256
GRANTS_PENDING_MAX = 32
LEASE_MS_MAX = 600_000


class LeaseView(Protocol):
    """What the engine asks before it serves and again before it answers. Cheap: no lock, no await."""

    def valid(self) -> bool:
        """Whether this incarnation may serve now."""
        ...

    def left_ms(self) -> float:
        """How long it still may; 0 without a lease."""
        ...


class Refusal(enum.Enum):
    """Why a beat was answered without a grant."""

    NOT_LEADER = "not_leader"
    SUSPECTED = "suspected"
    SUPERSEDED = "superseded"
    UNKNOWN_NODE = "unknown_node"
    FOREIGN_CLUSTER = "foreign_cluster"


class Standing(enum.Enum):
    """What the agent should do about its registration."""

    REGISTERED = "registered"
    REGISTER_AGAIN = "register_again"  # this incarnation is over, or metasrv does not know it
    FOREIGN = "foreign"  # the other side is another cluster


class _Beat(NamedTuple):
    at_ms: float
    open_lanes: frozenset[int]


class _Grant(NamedTuple):
    expires_ms: float
    lanes: frozenset[int]  # those that this grant admits


class LeaseKeeper:
    """See the module docstring. Times are milliseconds of one growing clock. Not thread-safe by itself."""

    def __init__(self, incarnation: int, registered_ms: float, lease_ms: float) -> None:
        self.incarnation = incarnation
        self.expires_ms = 0.0
        self.admitted: frozenset[int] = frozenset()
        self.applied_revision = 0
        self.standing = Standing.REGISTERED
        self._alone_until_ms = registered_ms + lease_ms
        self._beats: dict[int, _Beat] = {}
        self._pending: dict[int, _Grant] = {}

    def valid(self, now_ms: float) -> bool:
        """Whether the agent may serve."""
        return now_ms < self.expires_ms

    def left_ms(self, now_ms: float) -> float:
        """How much lease is left, 0 at least."""
        return max(0.0, self.expires_ms - now_ms)

    @property
    def awaited_revision(self) -> int | None:
        """The highest revision that a pending grant waits for, None where none waits."""
        return max(self._pending, default=None)

    def sent(self, beat: int, at_ms: float, open_lanes: Iterable[int]) -> None:
        """A beat leaves at `at_ms`; the OPEN marks of `open_lanes` were durable before that."""
        self._beats[beat] = _Beat(at_ms, frozenset(open_lanes))
        while len(self._beats) > BEATS_REMEMBERED_MAX:
            del self._beats[next(iter(self._beats))]

    def asked(self, beat: int) -> bool:
        """Whether this incarnation sent that beat: answers to an earlier incarnation's beats say nothing about it."""
        return beat in self._beats

    def granted(self, beat: int, lease_ms: int, assignment_revision: int, lanes: Iterable[int]) -> bool:
        """A grant answers `beat`. Whether it counts at once; pending, unknown or absurd ones do not.

        Answers may come late, twice, from several replicas and in any order.
        """
        asked = self._beats.get(beat)
        if asked is None or self.standing is not Standing.REGISTERED or not 0 < lease_ms <= LEASE_MS_MAX:
            return False
        named = frozenset(lanes)
        grant = _Grant(asked.at_ms + lease_ms, named & asked.open_lanes)
        if assignment_revision <= self.applied_revision:
            self._count(grant)
            return True
        before = self._pending.get(assignment_revision, _Grant(0.0, frozenset()))
        self._pending[assignment_revision] = _Grant(
            max(before.expires_ms, grant.expires_ms), before.lanes | grant.lanes
        )
        while len(self._pending) > GRANTS_PENDING_MAX:
            del self._pending[min(self._pending, key=lambda revision: self._pending[revision].expires_ms)]
        return False

    def applied(self, revision: int) -> bool:
        """The agent has applied its orders up to `revision`. Whether a pending grant counts now."""
        self.applied_revision = max(self.applied_revision, revision)
        ready = [r for r in self._pending if r <= self.applied_revision]
        for r in ready:
            self._count(self._pending.pop(r))
        return bool(ready)

    def refused(self, refusal: Refusal, now_ms: float) -> Standing:
        """A beat was refused; what that means for the registration.

        Superseded is for ever, so it ends the lease at once. That a node is unknown may be the ignorance of a replica
        that lags, and a foreign cluster one wrong address among right ones: these are believed only when nobody granted
        for a whole lease.
        """
        nobody_grants = now_ms >= max(self.expires_ms, self._alone_until_ms)
        if refusal is Refusal.SUPERSEDED or (refusal is Refusal.UNKNOWN_NODE and nobody_grants):
            self._end(Standing.REGISTER_AGAIN)
        elif refusal is Refusal.FOREIGN_CLUSTER and nobody_grants:
            self._end(Standing.FOREIGN)
        return self.standing

    def _count(self, grant: _Grant) -> None:
        self.expires_ms = max(self.expires_ms, grant.expires_ms)
        self.admitted |= grant.lanes

    def _end(self, standing: Standing) -> None:
        if self.standing is Standing.REGISTERED:
            self.standing = standing
        self.expires_ms = 0.0
        self._pending.clear()
        self._beats.clear()
