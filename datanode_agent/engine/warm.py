"""Warm rows: what a migration's target has read before the hand-over, counted against the memory budget."""

from bisect import bisect_left
from dataclasses import dataclass, field

from datanode_agent.core.memory import ENTRY_OVERHEAD_BYTES, MemoryBudget
from datanode_agent.core.replay import NO_ROWS, Damage, Digest, Found, Row, digest
from groundwork.core.manifest import StayKey


@dataclass(eq=False)
class Warm:
    """What a preparing region tailed of one stay: its entries in [start, until)."""

    start: int
    until: int
    memory: MemoryBudget  # what it holds counts
    rows: list[Row] = field(default_factory=list)  # in lane order
    damage: list[Damage] = field(default_factory=list)
    digest: Digest = NO_ROWS
    size_bytes: int = 0
    dropped: bool = False

    def take(self, found: Found) -> None:
        """Add what was found behind what is here."""
        if self.dropped:  # a tail that still reads
            return
        told = digest(found.rows)
        size_bytes = told.payload_bytes + len(found.rows) * ENTRY_OVERHEAD_BYTES
        self.memory.tail(size_bytes)
        self.size_bytes += size_bytes
        self.rows += found.rows
        self.damage += found.damage
        self.digest += told

    def drop(self) -> None:
        """Let go of it all: the region took what it needed, or prepares no more."""
        self.memory.end_tail(self.size_bytes)
        self.rows, self.damage, self.size_bytes, self.dropped = [], [], 0, True

    def between(self, start: int, end: int) -> tuple[list[Row], Digest]:
        """The rows in [start, end). Mostly that is all of them, and then none of them is looked at."""
        low = bisect_left(self.rows, start, key=lambda r: r.position)
        high = bisect_left(self.rows, end, key=lambda r: r.position)
        if high - low == len(self.rows):
            return self.rows[:], self.digest  # a copy: a tail that still reads goes on adding to its list
        rows = self.rows[low:high]
        return rows, digest(rows)


class WarmRegions:
    """The warm rows of all regions that prepare, by stay."""

    def __init__(self) -> None:
        self._regions: dict[int, dict[StayKey, Warm]] = {}

    def of(self, region_id: int) -> dict[StayKey, Warm]:
        """Those of a region, to be read and filled."""
        return self._regions.setdefault(region_id, {})

    def drop(self, region_id: int) -> None:
        """The region is open, or prepares no more."""
        for warm in self._regions.pop(region_id, {}).values():
            warm.drop()
