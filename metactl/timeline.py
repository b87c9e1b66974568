"""What happened when, in milliseconds since the fault: from metasrv's events and from the writers' acks. Pure.

The phases of one recovery, in order: last_ack (from what was lost), suspect, decided (the failover is committed),
sealed, claimed, replayed (per region, as its new owner reports), first_ack (per region, from the writer's side).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

PHASES = ("last_ack", "suspect", "decided", "sealed", "claimed", "replayed", "first_ack")
# An answer of a process that was killed may be on its way for so long, on a busy machine. What a frontend held through
# a recovery faster than this does not count, but the region's next ack does.
IN_FLIGHT_MS = 1_000.0


class Happening(msgspec.Struct, frozen=True):
    """One event of metasrv, on the drill's own clock. `fields` are as metasrv sent them."""

    at_ms: float
    kind: str
    sentence: str
    fields: Mapping[str, str] = {}

    def number(self, name: str) -> float:
        """A figure of the event, 0 where it has none of that name."""
        return float(self.fields.get(name) or 0)

    def nodes(self) -> frozenset[str]:
        """The datanodes that it names."""
        text = ",".join((self.fields.get("node_id", ""), self.fields.get("node_ids", "")))
        return frozenset(text.split(",")) - {""}

    def regions(self) -> frozenset[int]:
        """The regions that it names: one, or the first of many."""
        text = ",".join((self.fields.get("region_id", ""), self.fields.get("region_ids", "")))
        return frozenset(int(part) for part in text.split(",") if part)


class Fault(msgspec.Struct, frozen=True):
    """What was done to the cluster: to which nodes, from the first signal to the last, and whose regions were hit."""

    name: str
    nodes: tuple[str, ...]
    began_ms: float
    ended_ms: float
    regions: tuple[int, ...]


class Ack(NamedTuple):
    """One acknowledged batch: when it was sent (the attempt that was answered), when the answer came, how many rows."""

    sent_ms: float
    at_ms: float
    region_id: int
    rows: int


def rto_by_region(acks: Iterable[Ack], fault: Fault) -> dict[int, float]:
    """Per region hit: milliseconds from the first signal to the first ack of a row that a new owner must have given.

    An ack counts if its attempt was sent after the last signal, or came too late to be a dead process's answer.
    """
    rto: dict[int, float] = {}
    hit = frozenset(fault.regions)
    for ack in acks:
        since = ack.sent_ms > fault.ended_ms or ack.at_ms > fault.ended_ms + IN_FLIGHT_MS
        if ack.region_id in hit and since:
            took_ms = ack.at_ms - fault.began_ms
            rto[ack.region_id] = min(took_ms, rto.get(ack.region_id, took_ms))
    return rto


def writes_again(acks: Iterable[Ack], fault: Fault) -> set[int]:
    """Every region that acknowledged a batch sent after the fault."""
    return {ack.region_id for ack in acks if ack.sent_ms > fault.ended_ms}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed; 0 where there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = min(len(ordered) - 1, max(0, -(-int(share * 1000 * len(ordered)) // 1000) - 1))
    return ordered[rank]


def last_ack_ms(acks: Iterable[Ack], fault: Fault) -> float | None:
    """When a region that was hit last acknowledged before it was hit, since the fault (so zero or a little below)."""
    hit = frozenset(fault.regions)
    times = [
        ack.at_ms - fault.began_ms
        for ack in acks
        if ack.region_id in hit and ack.sent_ms <= fault.ended_ms and ack.at_ms <= fault.ended_ms + IN_FLIGHT_MS
    ]
    return max(times, default=None)


def phases_ms(acks: Sequence[Ack], happenings: Iterable[Happening], fault: Fault) -> dict[str, float]:
    """Milliseconds from the fault to each phase's end: to the last region's, where a phase is a region's own."""
    phases: dict[str, float] = {}

    def note(phase: str, at_ms: float) -> None:
        phases[phase] = max(at_ms - fault.began_ms, phases.get(phase, at_ms - fault.began_ms))

    happenings = list(happenings)
    recoveries = serving_events(happenings, fault)
    first: dict[str, float] = {}
    for h in happenings:
        if h.at_ms < fault.began_ms:
            continue
        if h.kind == "suspect" and h.nodes() & set(fault.nodes):
            first.setdefault("suspect", h.at_ms)
        elif h.kind == "failover":
            first.setdefault("decided", h.at_ms)
        elif h in recoveries:
            note("replayed", h.at_ms)
            note("claimed", h.at_ms - h.number("replay_ms"))
            note("sealed", h.at_ms - h.number("replay_ms") - h.number("claim_ms"))
    for phase, at_ms in first.items():
        note(phase, at_ms)
    before = last_ack_ms(acks, fault)
    if before is not None:
        phases["last_ack"] = before
    rto = rto_by_region(acks, fault)
    if rto:
        phases["first_ack"] = max(rto.values())
    return {phase: round(phases[phase], 1) for phase in PHASES if phase in phases}


def serving_events(happenings: Iterable[Happening], fault: Fault) -> list[Happening]:
    """The reports that regions which were hit serve again."""
    hit = frozenset(fault.regions)
    return [h for h in happenings if h.kind == "serving" and h.at_ms >= fault.began_ms and h.regions() & hit]


def replayed_entries(happenings: Iterable[Happening], fault: Fault) -> int:
    """How many lane entries the new owners replayed for the regions that were hit."""
    return sum(int(h.number("replayed_entries")) for h in serving_events(happenings, fault))
