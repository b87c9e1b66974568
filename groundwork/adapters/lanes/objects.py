"""The LogStore port on any ObjectStore: a lane is a folder of objects, each made by put-if-absent.

The rules, and the interleaving that breaks each of them when it is left out, are in docs/lanes.md and tests/model.
"""

import functools
from collections.abc import AsyncIterator, Callable

import structlog

from groundwork.adapters.lanes.format import ObjectKind, decode_object, encode_object
from groundwork.adapters.lanes.places import WINDOW_MAX, Limits, Places, gather
from groundwork.adapters.lanes.reader import read_lane
from groundwork.adapters.lanes.writer import ObjectsWriter
from groundwork.core import marks
from groundwork.core.check import require
from groundwork.core.errors import Damaged, Sealed
from groundwork.core.ids import Lane
from groundwork.core.ports import Chunk, Clock, ObjectStore, Sink, Workers

log = structlog.get_logger()


class ObjectsLog:
    """One process's view of the lanes in an object store. `nonce` makes 16 bytes that nobody else makes."""

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        workers: Workers,
        limits: Limits | None = None,
        nonce: Callable[[], bytes] | None = None,
    ) -> None:
        self._places = Places(store, clock, workers, limits or Limits(), nonce)
        self._opens: dict[Lane, bytes] = {}  # OPEN bodies tried, so that trying again tries the same body
        self._writers: set[Lane] = set()

    async def open_writer(self, lane: Lane, sink: Sink) -> ObjectsWriter:
        """Put the OPEN mark. Raises Sealed, Damaged, StoreUnavailable (then it may be called again)."""
        require(lane not in self._writers, f"lane {lane} has a writer already: one in its whole life")
        places = self._places
        body = self._opens.setdefault(lane, encode_object(ObjectKind.OPEN, lane, 0, places.nonce(), []))
        found = await places.settle(places.key(lane, 0), body, places.deadline_ms())
        if found is not None:
            if decode_object(found, lane, 0).kind is ObjectKind.SEAL:
                raise Sealed(f"lane {lane} was sealed before it was opened: this incarnation is over")
            raise Damaged(f"lane {lane} was opened by another process: register again for lanes of one's own")
        require(lane not in self._writers, f"lane {lane} has a writer already: one in its whole life")
        self._writers.add(lane)
        return ObjectsWriter(places, lane, sink)

    async def seal(self, lane: Lane) -> int:
        """End the lane for good; its end. Raises StoreUnavailable (then it may be called again).

        The SEAL takes the lowest absent seq at or above the trim marker, so it is above all that was acknowledged
        and at or below all that can ever be. When the marker has passed it meanwhile, names below were freed: again.
        """
        places, until_ms = self._places, self._places.deadline_ms()
        nonce = places.nonce()
        while True:
            at, seal = await self._find_end(lane, until_ms)
            while seal is None:
                body = encode_object(ObjectKind.SEAL, lane, at, nonce, [])
                found = await places.settle(places.key(lane, at), body, until_ms)
                if found is None or decode_object(found, lane, at).kind is ObjectKind.SEAL:
                    seal = at
                else:
                    marks.mark("seal_beaten_by_writer")
                    at += 1  # the writer was faster, or the name holds something damaged: it stays taken
            if await places.patiently(lambda: places.marker(lane), until_ms) <= seal:
                log.debug("seal_settled", lane=str(lane), end=seal)  # lane_sealed is said by who asked for it
                return seal
            marks.mark("seal_overtaken_by_trim")

    def read(self, lane: Lane, start: int, end: int | None) -> AsyncIterator[Chunk]:
        """Chunks in [start, end), in order. Raises Trimmed, StoreUnavailable."""
        return read_lane(self._places, lane, start, end)

    async def trim(self, lane: Lane, below: int) -> None:
        """Delete data below a position: the marker first, durably. Never beyond what exists, never OPEN or SEAL."""
        places, until_ms = self._places, self._places.deadline_ms()
        absent, seal = await self._find_end(lane, until_ms, below)
        end = absent if seal is None else seal
        if below > end:
            log.warning("lane_trim_clamped", lane=str(lane), below=below, end=end)
            below = end
        marker = f"{places.folder(lane)}trim/{below:020d}"
        await places.settle(marker, b"", until_ms)
        data = [seq for seq in await places.patiently(lambda: places.seqs(lane, 1), until_ms) if seq < below]
        markers = await places.patiently(lambda: places.store.list(f"{places.folder(lane)}trim/"), until_ms)
        freed = [*(places.key(lane, seq) for seq in data), *(k for k in markers if k < marker)]
        await places.patiently(lambda: places.store.delete(freed), until_ms)

    async def _find_end(self, lane: Lane, until_ms: float, below: int | None = None) -> tuple[int, int | None]:
        """The lowest absent seq at or above the trim marker, and the first SEAL below it (and `below`), if any.

        Above a SEAL lies at most what its writer had in flight, so a SEAL is among the last WINDOW_MAX objects.
        """
        places = self._places
        marker = at = await places.patiently(lambda: places.marker(lane), until_ms)
        for seq in await places.patiently(lambda: places.seqs(lane, marker), until_ms):
            if seq != at:
                break
            at += 1
        last = range(max(marker, at - WINDOW_MAX), at if below is None else min(at, below))
        found = await gather(*(places.patiently(functools.partial(places.fetch, lane, seq), until_ms) for seq in last))
        seals = [s for s, o in zip(last, found, strict=True) if o is not None and o.kind is ObjectKind.SEAL]
        return at, min(seals, default=None)
