"""Replaying one dead lane for many regions: one pass over its chunks, demultiplexed by region.

Costs are per record, not per byte, so a pass only parses headers and keeps views; what a manifest covers is skipped
before anything is decoded, and each region's batches are decoded together, later, in a worker.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from datanode_agent.core.memory import ENTRY_OVERHEAD_BYTES
from groundwork.core.entry import BadEntry, Kind, iter_entries
from groundwork.core.ports import Chunk


class Row(NamedTuple):
    """One entry of one region that replay found. The payload is a view into its chunk."""

    position: int
    epoch: int
    sequence: int
    rows: int
    schema_version: int
    payload: bytes | memoryview


class Damage(NamedTuple):
    """Bytes at a position that can not be used. Whose they were, the damaged bytes themselves cannot say."""

    position: int
    reason: str


class Found(NamedTuple):
    """What a pass found for one region."""

    rows: list[Row]
    damage: list[Damage]


class Demux:
    """Collects the entries of several regions from the chunks of one lane, each from its own position on."""

    def __init__(self, starts: Mapping[int, int]) -> None:
        self._starts = dict(starts)
        self._rows: dict[int, list[Row]] = {region: [] for region in starts}
        self.damage: list[Damage] = []
        self.chunks = 0
        self.entries = 0
        self.bytes = 0
        self.held_bytes = 0  # of the entries collected, as the memory budget counts them

    @property
    def start(self) -> int:
        """Where the pass begins: the lowest position that any region needs."""
        return min(self._starts.values(), default=0)

    def again(self) -> "Demux":
        """An empty one for the same regions: a pass that broke off starts over."""
        return Demux(self._starts)

    def feed(self, chunk: Chunk) -> None:
        """Take the next chunk of the lane."""
        position, body, damage = chunk
        starts, collected = self._starts, self._rows
        self.chunks += 1
        self.bytes += len(body)
        if damage is not None and not body:
            self.damage.append(Damage(position, damage))
            return
        for entry in iter_entries(body, starts, verify=damage is not None):
            if isinstance(entry, BadEntry):
                self.damage.append(Damage(position, entry.reason))
                continue
            self.entries += 1
            if position < starts[entry.region] or entry.kind != Kind.DATA:
                continue
            collected[entry.region].append(
                Row(position, entry.epoch, entry.sequence, entry.rows, entry.schema_version, entry.payload)
            )
            self.held_bytes += len(entry.payload) + ENTRY_OVERHEAD_BYTES
        if damage is not None and not any(d.position == position for d in self.damage):
            # The chunk as a whole fails, though each entry that can be seen is whole: entries may be missing.
            self.damage.append(Damage(position, damage))

    def take(self, region_id: int, start: int, end: int) -> Found:
        """What was found for one region in [start, end)."""
        rows = [row for row in self._rows.get(region_id, []) if start <= row.position < end]
        damage = [d for d in self.damage if start <= d.position < end and not unbroken(rows, d.position)]
        return Found(rows, damage)

    def held_by(self, region_id: int) -> int:
        """As held_bytes, of one region."""
        return sum(len(row.payload) + ENTRY_OVERHEAD_BYTES for row in self._rows.get(region_id, ()))

    def give_up(self, region_id: int) -> int:
        """Collect no more of a region, and let go what was collected: how much that was."""
        freed = self.held_by(region_id)
        self.held_bytes -= freed
        del self._starts[region_id], self._rows[region_id]
        return freed

    def forget(self, region_id: int) -> None:
        """The region has its rows, or needs them no more: chunks that nobody refers to can go."""
        self._rows.pop(region_id, None)


def unbroken(rows: Sequence[Row], position: int) -> bool:
    """Whether a region's sequence runs on across a position: then none of its rows was there and is missing."""
    before = [row for row in rows if row.position < position][-1:]
    behind = next((n for n, row in enumerate(rows) if row.position > position), None)
    if not before or behind is None:
        return False
    chain = [*before, *(row for row in rows[:behind] if row.position == position), rows[behind]]
    return all(
        after.epoch == row.epoch and after.sequence == row.sequence + row.rows
        for row, after in itertools.pairwise(chain)
    )


class Digest(NamedTuple):
    """What opening must know of rows. Kept while they are collected: a hand-over has no time to look at each again."""

    highest: tuple[int, int] = (0, 0)  # (epoch, sequence) of any row
    schema_version: int = 0  # the newest
    payload_bytes: int = 0

    def __add__(self, other: "Digest") -> "Digest":  # type: ignore[override]  # not of tuples
        """Of both."""
        return Digest(
            max(self.highest, other.highest),
            max(self.schema_version, other.schema_version),
            self.payload_bytes + other.payload_bytes,
        )


NO_ROWS = Digest()


def digest(rows: Iterable[Row]) -> Digest:
    """Of these rows."""
    highest, version, size = (0, 0), 0, 0
    for row in rows:
        highest = max(highest, (row.epoch, row.sequence + max(row.rows, 1) - 1))
        version = max(version, row.schema_version)
        size += len(row.payload)
    return Digest(highest, version, size)
