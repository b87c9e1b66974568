"""Reading a lane in object storage: in order, ahead of the consumer, up to the first SEAL."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from groundwork.adapters.lanes.format import LaneObject, ObjectKind
from groundwork.adapters.lanes.places import Places
from groundwork.core.errors import Trimmed
from groundwork.core.ids import Lane
from groundwork.core.ports import Chunk

RUN_MAX = 32
RUN_BYTES = 1 << 20


class _Ahead:
    """The objects of consecutive seqs, some gets ahead of who asks for them."""

    def __init__(self, places: Places, lane: Lane, at: int) -> None:
        self._places = places
        self._lane = lane
        self._next = at
        self._run = 1  # so many objects are fetched together: small ones many, since a call costs more than they do
        self._ready: deque[LaneObject | None] = deque()
        self._gets: deque[asyncio.Task[list[LaneObject | None]]] = deque()

    async def take(self, bound: int) -> LaneObject | None:
        """The next object, None where it is absent. Those below `bound` are fetched ahead."""
        if not self._ready:
            loop = asyncio.get_running_loop()
            while not self._gets or (self._next < bound and len(self._gets) < self._places.limits.read_ahead):
                count = max(1, min(self._run, bound - self._next))
                self._gets.append(loop.create_task(self._fetch(self._next, count)))
                self._next += count
            self._ready.extend(await self._gets[0])
            self._gets.popleft()
            largest = max(len(found.body) for found in self._ready if found) if any(self._ready) else 0
            self._run = min(RUN_MAX, RUN_BYTES // max(1, largest) or 1)
        return self._ready.popleft()

    async def _fetch(self, seq: int, count: int) -> list[LaneObject | None]:
        places = self._places
        until_ms = places.clock.now_ms() + places.limits.append_ms
        return await places.patiently(lambda: places.fetch_run(self._lane, seq, count), until_ms)

    async def stop(self) -> None:
        """Drop what was fetched and not asked for."""
        for get in self._gets:
            get.cancel()
        await asyncio.gather(*self._gets, return_exceptions=True)


async def read_lane(places: Places, lane: Lane, start: int, end: int | None) -> AsyncIterator[Chunk]:
    """LogStore.read on object storage."""
    at = max(start, 1)  # OPEN is no chunk
    bound = end if end is not None else at + 1
    listed = checked = False
    ahead = _Ahead(places, lane, at)
    try:
        while end is None or at < end:
            found = await ahead.take(bound)
            if found is None or not checked:
                # After an absent key the marker is read again: it is durable before anything is deleted.
                await _check_marker(places, lane, at)
                checked = True
            if found is None:
                if end is not None:
                    raise Trimmed(f"position {at} of lane {lane} must exist below {end}, and is absent")
                return
            if found.kind is ObjectKind.SEAL:
                return
            damage = found.damage
            if damage is None and found.kind is not ObjectKind.DATA:
                damage = f"an {found.kind.name if found.kind else '?'} mark where data belongs"
            yield Chunk(at, found.body, damage)
            at += 1
            if end is None and not listed:
                # There is more than a tail to read, perhaps: one listing says how much may be fetched ahead.
                listed = True
                bound = max(await places.seqs(lane, at), default=at) + 1
    finally:
        await ahead.stop()


async def _check_marker(places: Places, lane: Lane, at: int) -> None:
    until_ms = places.clock.now_ms() + places.limits.append_ms
    marker = await places.patiently(lambda: places.marker(lane), until_ms)
    if at < marker:
        raise Trimmed(f"position {at} of lane {lane} lies below the trim point {marker}")
