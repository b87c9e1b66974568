"""What clients did and saw, and what they must see (P1, and linearizability per key)."""

import math
from typing import TYPE_CHECKING, NamedTuple

from tests.sim.linear import Span, contradictions

if TYPE_CHECKING:
    from tests.sim.world import World

# The longest that a region may take no writes once nothing is wrong any more: two elections (a vote may be split), the
# lease of a node that the new leader has not heard, two beats and a tick to be heard and judged, one second for its
# program's start, one for seal, claim, replay and the new route, and one for what had backed off meanwhile.
OUTAGE_S_MAX = 2 * 2.0 + 3.0 + 2 * 0.9 + 0.1 + 1.0 + 1.0 + 1.0
# The longest that a key may take no writes when one datanode dies and stays dead, and nothing else is wrong (P3): the
# lease since its last beat, on a clock that is slow by 1 %, a tick to be judged, and P3's second for commits, seal,
# claim, replay and the new route (the simulated store answers within 20 ms each way, a replica within 50).
DETECTION_S_MAX = 3.0 * 1.011 + 0.1 + 1.0
# The same where the leader dies with it (P5): two elections (a vote may be split) and two beats until the new leader
# may judge, since the dead one does not tell it what it heard; the lease runs meanwhile. And the new leader's address
# has to be found by those who had backed off.
DETECTION_S_MAX_ELECTED = 2 * 2.0 + 2 * 0.9 + 0.1 + 1.0 + 1.0
OUTAGE_S = 0.3  # a write that took longer than this met an outage


class Bound(NamedTuple):
    """How long any key may take no writes since something, and what that was."""

    seconds: float
    since: str
    fresh: bool = False  # only a write that began since then counts


HEALED = Bound(OUTAGE_S_MAX, "all faults had ended")
ONE_DEAD = Bound(DETECTION_S_MAX, "one datanode had died and stayed dead, all else being well", True)
ONE_DEAD_AND_LEADER = Bound(DETECTION_S_MAX_ELECTED, "one datanode had died with the leader and stayed dead", True)


class Before(NamedTuple):
    """What was known of a key when a read began."""

    key: str
    acked: frozenset[int]
    register: int  # the highest acknowledged, or observed by an earlier strong read
    stale_register: int  # what a lease read may still show
    shown: frozenset[int]  # rows that earlier strong reads showed, acknowledged or not
    began_s: float


class History:
    """Of all keys of one run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.attempted: dict[str, set[int]] = {}
        self.acked: dict[str, set[int]] = {}
        self.observed: dict[str, int] = {}
        self.outages_s: list[float] = []
        self.writes = self.strong_reads = self.lease_reads = 0
        self.complete = False
        self.recoveries_s: list[float] = []  # from the end of all faults to the next acknowledged write of a key
        self.detections_s: list[float] = []  # the same, from the death of a datanode that stays dead
        self.bound = HEALED
        self.waited_for: dict[str, float] = {}  # keys that took no write since then, and when that was
        self._ack_times: dict[str, list[tuple[float, int]]] = {}
        self._spans: dict[str, dict[int, Span]] = {}  # of all writes
        self._shown: dict[str, set[int]] = {}  # rows that a strong read has shown
        self._strong: dict[str, list[tuple[int, Span]]] = {}  # of all strong reads, with what they saw

    def attempts(self, key: str, number: int) -> None:
        """A write begins."""
        self.attempted.setdefault(key, set()).add(number)
        self._spans.setdefault(key, {})[number] = Span(self._world.loop.time(), math.inf)

    def acknowledged(self, key: str, number: int, began_s: float) -> None:
        """A write is done."""
        now_s = self._world.loop.time()
        self.acked.setdefault(key, set()).add(number)
        self._spans[key][number] = Span(self._spans[key][number].start, now_s)
        self._ack_times.setdefault(key, []).append((now_s, number))
        self.writes += 1
        since_s = self.waited_for.get(key)
        if since_s is not None and (began_s >= since_s or not self.bound.fresh):
            del self.waited_for[key]
            (self.recoveries_s if self.bound is HEALED else self.detections_s).append(now_s - since_s)
            if now_s - since_s > self.bound.seconds:
                self.too_long(key, now_s - since_s)
        if now_s - began_s > OUTAGE_S:
            self.outages_s.append(now_s - began_s)
        self._world.trace.note("client", "acked", key=key, number=number)

    def calm(self, keys: list[str], bound: Bound = HEALED) -> None:
        """All faults are over, or all but one: each key's outage must end within its bound."""
        self.bound = bound
        self.waited_for = dict.fromkeys(keys, self._world.loop.time())

    def too_long(self, key: str, took_s: float) -> None:
        """An outage beyond its bound."""
        bound = self.bound
        self._world.fail(f"{key} took no writes for {took_s:.1f} s after {bound.since}; bound {bound.seconds:.1f}")

    def before_read(self, keys: list[str], strong: bool) -> list[Before]:
        """A read begins."""
        now_s = self._world.loop.time()
        stale_s = now_s - self._world.lease_s * 1.05
        found = []
        for key in keys:
            acked = self.acked.get(key, set())
            register = max(max(acked, default=0), self.observed.get(key, 0))
            old = [n for at_s, n in self._ack_times.get(key, []) if at_s <= stale_s]
            found.append(
                Before(key, frozenset(acked), register, max(old, default=0), frozenset(self._shown.get(key, ())), now_s)
            )
        return found

    def after_read(self, before: list[Before], rows: dict[str, dict[int, int]], strong: bool) -> None:
        """A read has answered."""
        if strong:
            self.strong_reads += 1
        else:
            self.lease_reads += 1
        kind = "strong" if strong else "lease"
        for known in before:
            seen = rows.get(known.key, {})
            self._check_rows(kind, known, seen, strong)
            self._check_register(kind, known, seen.get(0, 0), strong)

    def _check_rows(self, kind: str, known: Before, seen: dict[int, int], strong: bool) -> None:
        if self._world.clocks_lie and not strong:
            return
        due = known.acked | known.shown if strong else {n for n in known.acked if n <= known.stale_register}
        missing = sorted(n for n in due if n not in seen)
        if missing:
            self._world.fail(f"P1: a {kind} read of {known.key} begun at {known.began_s:.4f} misses {missing[:8]}")
        foreign = [t for t, v in seen.items() if t and (v != t or t not in self.attempted[known.key])]
        if foreign:
            self._world.fail(f"a {kind} read of {known.key} shows rows that nobody wrote: {foreign[:8]}")
        if seen.get(0, 0) and seen[0] not in seen:
            self._world.fail(f"a {kind} read of {known.key} shows half of the write {seen[0]}")
        if strong:
            self._shown.setdefault(known.key, set()).update(t for t in seen if t)

    def _check_register(self, kind: str, known: Before, value: int, strong: bool) -> None:
        """At once, what no order explains by itself; all of it together at the end."""
        if strong:
            self.observed[known.key] = max(self.observed.get(known.key, 0), value)
            self._strong.setdefault(known.key, []).append((value, Span(known.began_s, self._world.loop.time())))
        elif self._world.clocks_lie:
            return
        floor = known.register if strong else known.stale_register
        unanswered = value in self.attempted.get(known.key, ()) and value not in self.acked.get(known.key, ())
        if value < floor and not unanswered:
            self._world.fail(
                f"linearizability: a {kind} read of {known.key} begun at {known.began_s:.4f} "
                f"shows {value}, {floor} was acknowledged or seen before"
            )

    def at_the_end(self) -> None:
        """Per key, writes and strong reads must be linearizable; an unanswered write may take effect at any time."""
        for key, writes in self._spans.items():
            for told in contradictions(writes, self._strong.get(key, []))[:2]:
                self._world.fail(f"linearizability: {key}: {told}")
