"""Whether the history of one register is linearizable: exact, since every value is written once.

All operations on one value are a cluster: its write and the reads that saw it. It must have been the register's value
from the first end of any of them to the last start: where that end comes before that start, nothing else fits in
between (a forward zone); where not, the value may have lasted for a moment only, anywhere between (a backward zone).
There is an order if and only if no read ends before its write begins, no two forward zones overlap, and no backward
zone lies within a forward one (Gibbons and Korach, Testing Shared Memories, 1997).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

FIRST = 0  # the value that nobody wrote


class Span(NamedTuple):
    """When an operation began, and when it was answered (never: inf; it may take effect at any time, or not at all)."""

    start: float
    end: float


class _Zone(NamedTuple):
    value: int
    first_end: float
    last_start: float

    @property
    def forward(self) -> bool:
        return self.first_end < self.last_start

    def within(self, other: "_Zone") -> bool:
        return other.first_end < self.last_start and self.first_end < other.last_start

    def __str__(self) -> str:
        if self.forward:
            return (
                f"{self.value} lasted from {self.first_end:.4f} at the latest to {self.last_start:.4f} at the earliest"
            )
        return f"{self.value} came and went between {self.last_start:.4f} and {self.first_end:.4f}"


def contradictions(writes: Mapping[int, Span], reads: Sequence[tuple[int, Span]]) -> list[str]:
    """What cannot be in any order; empty where the history is linearizable."""
    seen: dict[int, list[Span]] = {}
    for value, span in reads:
        seen.setdefault(value, []).append(span)
    found, zones = [], []
    for value, write in {FIRST: Span(-math.inf, -math.inf), **writes}.items():
        spans = seen.pop(value, [])
        if not spans and write.end == math.inf:
            continue  # it may never have taken effect
        if any(span.end < write.start for span in spans):
            found.append(f"{value} was read before its write began at {write.start:.4f}")
        spans.append(write)
        zones.append(_Zone(value, min(s.end for s in spans), max(s.start for s in spans)))
    found += [f"{value} was read and never written" for value in seen]
    return found + _clashes(zones)


def _clashes(zones: Sequence[_Zone]) -> list[str]:
    forward = sorted((z for z in zones if z.forward), key=lambda z: z.first_end)
    found = []
    for n, zone in enumerate(forward):
        for other in forward[n + 1 :]:
            if other.first_end >= zone.last_start:
                break
            found.append(f"{zone}, and {other}")
        found += [f"{zone}, and {other}" for other in zones if not other.forward and other.within(zone)]
    return found
