"""Tailing another node's lane while its owner still serves: one reader per lane for all regions that prepare."""

import asyncio

import structlog

from datanode_agent.core.memory import MemoryBudget
from datanode_agent.core.replay import Demux
from datanode_agent.engine.context import Context
from datanode_agent.engine.opening import OpenFailed
from datanode_agent.engine.waiting import Changed
from datanode_agent.engine.warm import Warm
from groundwork.core.errors import StoreUnavailable, Trimmed
from groundwork.core.ids import Lane

log = structlog.get_logger()
POLL_SLOWDOWN_MAX = 20  # an idle lane is looked at this many times less often


def no_room(memory: MemoryBudget) -> OpenFailed:
    """The reason of a preparation that is given up for want of memory."""
    return OpenFailed(
        "memory_budget",
        f"this datanode has no room for the rows that it would take over: {memory.used_bytes:,} of"
        f" {memory.limit_bytes:,} bytes are used, {memory.tailed_bytes:,} of them by regions on their way here;"
        " move fewer at a time, flush, or raise memory_budget_bytes",
    )


class LaneTail:
    """Reads one lane to its present end, over and over, into the warm rows of its members."""

    def __init__(self, context: Context, lane: Lane) -> None:
        self.lane = lane
        self.progress = Changed()  # a look at the lane found nothing more, or a member was lost
        self._context = context
        self._members: dict[int, Warm] = {}
        self._joining: dict[int, Warm] = {}
        self._lost: set[int] = set()
        self._no_room: dict[int, OpenFailed] = {}
        self._failure: Exception | None = None
        self._position = 0
        self._task: asyncio.Task[None] | None = None

    def join(self, region_id: int, warm: Warm) -> None:
        """Collect this region's entries from warm.start on."""
        self._lost.discard(region_id)
        self._no_room.pop(region_id, None)
        self._joining[region_id] = warm
        if self._task is None or self._task.done():
            self._failure = None
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"tail {self.lane}")

    def leave(self, region_id: int) -> None:
        """Stop collecting; what was collected stays with its owner."""
        self._members.pop(region_id, None)
        self._joining.pop(region_id, None)

    def caught_up(self, region_id: int) -> bool:
        """Whether it has seen the end of the lane at least once."""
        return region_id in self._members

    def lost(self, region_id: int) -> bool:
        """The lane was trimmed beyond what it had: it must start again from a newer manifest.

        Raises what ended the tail for all, Damaged where the lane cannot be read; OpenFailed where memory ended it.
        """
        if region_id in self._no_room:
            raise self._no_room.pop(region_id)
        if self._failure is not None:
            raise self._failure
        return region_id in self._lost

    @property
    def idle(self) -> bool:
        """Nobody needs it."""
        return not self._members and not self._joining

    def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception as error:  # noqa: BLE001  the members' own tasks raise it: each region fails, and says why
            self._failure = error
            self._members, self._joining = {}, {}
            self.progress.notify()

    async def _follow(self) -> None:
        config, wait_ms = self._context.config, self._context.config.tail_poll_ms
        while not self.idle:
            try:
                moved = await self._look()
            except StoreUnavailable as error:
                log.warning("tail_waits", lane=str(self.lane), why=str(error))
                moved = False
            except Trimmed as error:
                log.info("tail_trimmed", lane=str(self.lane), why=str(error))
                self._lost |= {*self._members, *self._joining}
                self._members, self._joining, moved = {}, {}, True
            self.progress.notify()
            wait_ms = config.tail_poll_ms if moved else min(wait_ms * 2, config.tail_poll_ms * POLL_SLOWDOWN_MAX)
            await self._context.clock.sleep(wait_ms)

    async def _look(self) -> bool:
        joining = dict(self._joining)
        if joining:
            lowest = min(w.start for w in joining.values())
            if not self._members:
                self._position = lowest
                await self._read(joining, None)
            else:
                if lowest < self._position:
                    await self._read(joining, self._position)
            for region_id, warm in joining.items():
                if self._joining.get(region_id) is warm:
                    del self._joining[region_id]
                    warm.until = max(warm.until, self._position)
                    self._members[region_id] = warm
            return True
        before = self._position
        await self._read(self._members, None)
        return self._position > before

    async def _read(self, into: dict[int, Warm], end: int | None) -> None:
        """Add the entries from the members' own places on. Nothing is added when it breaks off."""
        into = dict(into)
        demux = Demux({region_id: max(w.start, w.until) for region_id, w in into.items()})
        position = demux.start if end is not None else max(self._position, demux.start)
        memory, counted = self._context.memory, 0
        self._make_room(into, demux)
        try:
            async for chunk in self._context.logs.read(self.lane, position, end):
                demux.feed(chunk)
                memory.tail(demux.held_bytes - counted)
                self._make_room(into, demux)
                counted = demux.held_bytes
                position = max(position, chunk.position + 1)
        finally:
            memory.end_tail(counted)
        if end is None:
            self._position = max(self._position, position)
        for region_id, warm in into.items():
            found = demux.take(region_id, 0, 1 << 63)
            warm.take(found)
            warm.until = max(warm.until, position)

    def _make_room(self, into: dict[int, Warm], demux: Demux) -> None:
        """Past the memory budget the region that holds most is given up: it says why, and its owner goes on."""
        memory = self._context.memory
        while memory.crowded:
            # One that left is being opened with what it has, up to where it has read.
            mine = [r for r, warm in into.items() if warm in (self._members.get(r), self._joining.get(r))]
            region_id = max(mine, key=lambda r: into[r].size_bytes + demux.held_by(r), default=None)
            if region_id is None:
                return
            self._no_room[region_id] = no_room(memory)
            self.leave(region_id)
            into.pop(region_id).drop()
            memory.end_tail(demux.give_up(region_id))
            memory.gave_up()
            self.progress.notify()  # now: with nobody left, this tail may be closed before it has read on


class Tails:
    """One per lane."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lanes: dict[Lane, LaneTail] = {}

    def of(self, lane: Lane) -> LaneTail:
        """The tail of a lane."""
        return self._lanes.setdefault(lane, LaneTail(self._context, lane))

    def leave(self, region_id: int) -> None:
        """The region prepares no more."""
        for lane, tail in list(self._lanes.items()):
            tail.leave(region_id)
            if tail.idle:
                tail.close()
                del self._lanes[lane]

    def close(self) -> None:
        """Stop all."""
        for tail in self._lanes.values():
            tail.close()
        self._lanes.clear()
