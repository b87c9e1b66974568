"""A lane, its writer, sealers and trimmers as processes of their own on one bucket, and what must hold between them."""

import asyncio
from collections.abc import Sequence

from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.lanes.places import Limits
from groundwork.adapters.lanes.writer import ObjectsWriter
from groundwork.core.errors import LaneError, StoreUnavailable, Trimmed
from groundwork.core.ids import Lane, first_token
from groundwork.sim.clock import SimClock
from groundwork.sim.objects import Bucket, Faults, Gate, SimObjectStore
from groundwork.sim.workers import InlineWorkers

LANE = Lane("dn-1", first_token(1) + 4, 0)
LIMITS = Limits(window=3, object_bytes=20, append_ms=20_000, settle_ms=60_000)


class World:
    """One lane. `acked` and `sunk` are what its writer acknowledged and handed to its sink, by position."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.bucket = Bucket()
        self.over = False  # metasrv committed it
        self.acked: dict[int, list[bytes]] = {}
        self.sunk: dict[int, list[bytes]] = {}
        self.covered = 1  # a manifest covers what lies below
        self.ends: list[int] = []
        self.late: list[tuple[int, bytes]] = []  # acknowledged after a seal had returned
        self.writer: ObjectsWriter | None = None
        self._limits = limits
        self._nonces = iter(range(1, 1 << 30))

    def process(self, faults: Faults | None = None, seed: int = 0, gate: Gate | None = None) -> ObjectsLog:
        """A process of its own, with faults of its own."""
        store = SimObjectStore(self.bucket, faults, seed, gate)
        return ObjectsLog(
            store, SimClock(), InlineWorkers(), self._limits, lambda: next(self._nonces).to_bytes(16, "big")
        )

    async def write(self, log: ObjectsLog, entries: int) -> None:
        """The writer's life: open, ask for a grant, append from several callers, until it is out or done."""
        try:
            self.writer = await log.open_writer(LANE, self._sink)
        except (LaneError, StoreUnavailable):
            return
        if self.over:  # the grant is asked for after OPEN is durable, and refused for a lane that is over
            await self.writer.close()
            return
        self.writer.admit()
        await asyncio.gather(*(self._append(self.writer, f"{n:04d}".encode() * 4) for n in range(entries)))
        await self.writer.close()

    async def _append(self, writer: ObjectsWriter, entry: bytes) -> None:
        try:
            position = await writer.append(entry)
        except (LaneError, StoreUnavailable):
            return
        self.acked.setdefault(position, []).append(entry)
        if self.ends and position >= min(self.ends):
            self.late.append((position, entry))

    def _sink(self, position: int, entries: Sequence[bytes]) -> None:
        assert not self.sunk or position > max(self.sunk), "the sink is called in lane order"
        self.sunk[position] = list(entries)

    async def seal(self, log: ObjectsLog) -> int:
        """Metasrv commits that the lane is over, then somebody seals it."""
        self.over = True
        end = await log.seal(LANE)
        self.ends.append(end)
        return end

    async def trim(self, log: ObjectsLog, below: int) -> None:
        """Trim below a position that a manifest covers: only what reached the sink can be covered."""
        assert below <= max(self.sunk, default=0) + 1
        self.covered = max(self.covered, below)
        try:
            await log.trim(LANE, below)
        except StoreUnavailable:
            pass  # the marker may be there, and some deletes: a later trim does the rest

    async def check(self) -> None:
        """P1 and P2, on what a new owner would find."""
        assert self.ends, "nobody sealed"
        end = self.ends[0]
        assert self.ends == [end] * len(self.ends), f"sealers disagree: {self.ends}"
        assert not self.late, f"acknowledged at or above the end {end}: {self.late}"
        assert all(position < end for position in self.acked), (end, sorted(self.acked))
        found: dict[int, bytes] = {}
        log = self.process()
        start = max(self.covered, 1)
        async for chunk in log.read(LANE, start, max(end, start)):
            assert chunk.damage is None
            found[chunk.position] = bytes(chunk.body)
        assert list(found) == list(range(start, max(end, start))), "a reader finds every position below the end"
        for position, entries in self.acked.items():
            if position >= start:
                for entry in entries:
                    assert entry in found[position], f"P1: {entry!r} was acknowledged at {position}"
        for position, sunk in self.sunk.items():
            if position >= start and position < end:
                assert found[position] == b"".join(sunk)
        if start > 1:
            try:
                async for _ in log.read(LANE, 1, end):
                    raise AssertionError("what was trimmed was read")
            except Trimmed:
                pass  # as it must
        assert await log.seal(LANE) == end
