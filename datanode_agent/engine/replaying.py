"""One seal and one replay pass per dead lane, for all the regions that this node takes over from it.

Regions are expected as soon as their orders are here; each says where its replay begins once it has read its
manifest, before it claims. The pass starts when all have spoken, or when the slow ones have had their time: those get
a pass of their own later. A region takes its rows after its own claim.
"""

import asyncio

import structlog

from datanode_agent.core.replay import Demux, Found
from datanode_agent.engine.context import Context
from datanode_agent.engine.waiting import Changed, outcome_seen, while_unavailable, within
from groundwork.core.errors import Trimmed
from groundwork.core.ids import Lane

log = structlog.get_logger()
YIELD_CHUNKS = 64  # other work runs after so many chunks


class LaneReplay:
    """One lane of somebody else."""

    def __init__(self, context: Context, lane: Lane) -> None:
        self.lane = lane
        self.seal_ms = 0.0
        self._context = context
        self._expected: set[int] = set()
        self._all_spoke = Changed()
        self._wanted: dict[int, tuple[int, int | None]] = {}
        self._passes: dict[int, asyncio.Task[Demux]] = {}
        self._begins: dict[int, tuple[int, int | None]] = {}
        self._seal: asyncio.Task[int] | None = None
        self._gathering: asyncio.Task[Demux] | None = None
        self._running: set[asyncio.Task[Demux]] = set()

    def expect(self, region_id: int) -> None:
        """This region is being opened, and may need the lane."""
        if region_id not in self._passes:
            self._expected.add(region_id)

    def skip(self, region_id: int) -> None:
        """It does not, or it failed."""
        self._expected.discard(region_id)
        if not self._expected:
            self._all_spoke.notify()

    def need(self, region_id: int, start: int, end: int | None) -> None:
        """It will need the lane from `start` on, up to `end` (None: the seal). Said before it claims."""
        known = self._begins.get(region_id)
        if known is not None and known[0] <= start and (known[1] is None or (end is not None and end <= known[1])):
            self.skip(region_id)
            return
        if known is not None:  # a region may have had several stays in this lane: one pass for all of them
            start = min(start, known[0])
            end = None if end is None or known[1] is None else max(end, known[1])
        self._begins[region_id] = (start, end)
        self._wanted[region_id] = (start, end)
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().create_task(self._gather(), name=f"replay {self.lane}")
            self._gathering.add_done_callback(outcome_seen)
            self._gathering.add_done_callback(self._running.discard)
            self._running.add(self._gathering)
        self._passes[region_id] = self._gathering
        self.skip(region_id)

    async def seal(self) -> int:
        """End the lane; its end. The caller knows that it is committed as over. One seal serves all."""
        return await asyncio.shield(self.begin_seal())

    def begin_seal(self) -> "asyncio.Task[int]":
        """The same, without waiting: it need not wait for the first manifest."""
        if self._seal is None or (self._seal.done() and (self._seal.cancelled() or self._seal.exception())):
            self._seal = asyncio.get_running_loop().create_task(self._do_seal(), name=f"seal {self.lane}")
            self._seal.add_done_callback(outcome_seen)
        return self._seal

    async def collect(self, region_id: int, start: int, end: int) -> Found:
        """The region's entries in [start, end). Raises Trimmed when some of them are gone."""
        if start >= end:
            self.skip(region_id)
            return Found([], [])
        self.need(region_id, start, end)
        try:
            demux = await asyncio.shield(self._passes[region_id])
        except Trimmed:
            # One region's old manifest must not stop the others of the pass: each reads for itself now.
            demux = await self._pass(Demux({region_id: start}), end)
        return demux.take(region_id, start, end)

    def leave(self, region_id: int) -> None:
        """It is open, or gave up."""
        self.skip(region_id)
        task = self._passes.pop(region_id, None)
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            task.result().forget(region_id)
        self._begins.pop(region_id, None)
        self._wanted.pop(region_id, None)

    def close(self) -> None:
        """Give up what runs."""
        for task in [*self._running, *([self._seal] if self._seal else [])]:
            task.cancel()

    async def _do_seal(self) -> int:
        began_ms = self._context.clock.now_ms()
        config = self._context.config

        def note(why: str) -> None:
            log.warning("seal_waits", lane=str(self.lane), why=why)

        end = await while_unavailable(
            self._context.clock, config.retry_ms, config.retry_ms_max, lambda: self._context.logs.seal(self.lane), note
        )
        self.seal_ms = self._context.clock.now_ms() - began_ms
        log.info("lane_sealed", lane=str(self.lane), end=end, took_ms=round(self.seal_ms, 1))
        return end

    async def _gather(self) -> Demux:
        # As long as one after another speaks it is worth waiting: a pass for all costs as much as a pass for one.
        left = len(self._expected)
        while self._expected:
            if await within(self._context.clock, self._all_spoke.future(), self._context.config.manifest_wait_ms):
                break
            if len(self._expected) == left:
                break
            left = len(self._expected)
        await asyncio.sleep(0)  # those that speak in this very turn
        wanted, self._wanted, self._gathering = self._wanted, {}, None
        ends = [end for _, end in wanted.values()]
        end = None if None in ends else max(e for e in ends if e is not None)
        if end is None and self._seal is not None:
            end = await self.seal()
        return await self._pass(Demux({region: start for region, (start, _) in wanted.items()}), end)

    async def _pass(self, first: Demux, end: int | None) -> Demux:
        config = self._context.config

        def note(why: str) -> None:
            log.warning("replay_waits", lane=str(self.lane), why=why)

        async def read() -> Demux:
            demux = first.again()
            began_ms = self._context.clock.now_ms()
            async for chunk in self._context.logs.read(self.lane, demux.start, end):
                demux.feed(chunk)
                if demux.chunks % YIELD_CHUNKS == 0:
                    await asyncio.sleep(0)
            self._measured(demux, self._context.clock.now_ms() - began_ms)
            return demux

        return await while_unavailable(self._context.clock, config.retry_ms, config.retry_ms_max, read, note)

    def _measured(self, demux: Demux, took_ms: float) -> None:
        context = self._context
        if demux.bytes > 1 << 20 and took_ms > 0:
            context.replay_bytes_per_ms = demux.bytes / took_ms
        context.metrics.replayed_bytes.inc(demux.bytes)
        if demux.damage:
            context.metrics.lane_damage.inc(len(demux.damage))
        log.info(
            "lane_read", lane=str(self.lane), start=demux.start, chunks=demux.chunks, entries=demux.entries,
            bytes=demux.bytes, damaged=len(demux.damage), took_ms=round(took_ms, 1),
        )  # fmt: skip


class Replays:
    """All lanes that are being replayed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lanes: dict[Lane, LaneReplay] = {}
        self._users: dict[int, set[Lane]] = {}

    def of(self, lane: Lane, region_id: int) -> LaneReplay:
        """The one of a lane; it is kept while any region opens that asked for it."""
        self._users.setdefault(region_id, set()).add(lane)
        return self._lanes.setdefault(lane, LaneReplay(self._context, lane))

    def forget(self, region_id: int) -> None:
        """A region is open, or gave up: a lane that nobody uses is let go, with what was read of it."""
        for lane in self._users.pop(region_id, set()):
            self._lanes[lane].leave(region_id)
            if not any(lane in lanes for lanes in self._users.values()):
                self._lanes.pop(lane).close()

    def close(self) -> None:
        """Give up everything."""
        for region_id in list(self._users):
            self.forget(region_id)
