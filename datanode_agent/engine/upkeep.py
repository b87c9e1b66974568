"""What goes on by itself: flushes, compaction, clean-up, proof of work, trims."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from datanode_agent.core import flush_policy
from datanode_agent.core.region_state import State
from datanode_agent.engine.context import Context
from datanode_agent.engine.flushing import Flusher, NotOwned
from datanode_agent.engine.manifests import Fenced
from datanode_agent.engine.region import Region
from datanode_agent.engine.waiting import Changed, within
from groundwork.core.errors import Damaged, LaneError, NotFound, StoreError, StoreUnavailable
from groundwork.core.ids import Lane

log = structlog.get_logger()
TRIM_ATTEMPTS_MAX = 20
CONSIDER_REST = 20
Crashed = Callable[[BaseException], None]


class Upkeep:
    """Of one incarnation."""

    def __init__(
        self,
        context: Context,
        regions: Mapping[int, Region],
        flusher: Flusher,
        crashed: Crashed,
    ) -> None:
        self._context = context
        self._crashed = crashed
        self._regions = regions
        self._flusher = flusher
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[int] = set()
        self._trims: dict[Lane, int] = {}
        self._nudged = Changed()
        self.probe_ok_ms = context.clock.now_ms()

    def start(self) -> None:
        """Begin. The store has answered just now: the lanes were opened. How long nobody asked it proves nothing."""
        self.probe_ok_ms = self._context.clock.now_ms()
        for work in (self._ticks(), self._canaries(), self._probes()):
            self.keep(work, "upkeep")

    def keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run a task without which nothing here may go on: a defect in it ends the process."""
        self.spawn(work, name).add_done_callback(self._must_run)

    def _must_run(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._crashed(error)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task that ends with the engine."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("upkeep_failed", task=task.get_name(), exc_info=task.exception())

    async def close(self) -> None:
        """Stop everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---------------------------------------------------------------- flush, compaction, clean-up

    async def _ticks(self) -> None:
        wait_ms = self._context.config.tick_ms
        while True:
            await within(self._context.clock, self._nudged.future(), wait_ms)
            began_ms = self._context.clock.now_ms()
            self.consider()
            # With very many regions, looking at all of them must not become the main work.
            wait_ms = max(self._context.config.tick_ms, CONSIDER_REST * (self._context.clock.now_ms() - began_ms))

    def nudge(self) -> None:
        """Do not wait for the next tick."""
        self._nudged.notify()

    def consider(self) -> None:
        """Start what is due now."""
        context, now_ms = self._context, self._context.clock.now_ms()
        serving = [r for r in self._regions.values() if r.state is State.SERVING and r.lane is not None]
        lanes = [lane.load() for lane in context.lanes.values() if lane.is_open]
        loads = [_load(r, now_ms) for r in serving if not r.committing.locked()]
        for lane in lanes:
            lowest = min((r.covered for r in loads if r.lane_index == lane.lane_index), default=lane.end)
            context.lanes[lane.lane_index].forget_below(lowest)
        limits = flush_policy.Limits(
            context.config.flush_bytes, context.config.flush_age_ms, context.config.settle_ms,
            context.config.replay_objective_ms,
            context.replay_bytes_per_ms or context.config.replay_rate_bytes_per_ms, context.memory.pressed,
        )  # fmt: skip
        for due in flush_policy.choose(lanes, loads, limits):
            if len(self._busy) >= context.config.flushes_queued_max:
                break
            if due.region_id not in self._busy:
                self._busy.add(due.region_id)
                self.spawn(self._maintain(self._regions[due.region_id], due.reason), f"flush {due.region_id}")
        self._tell_failures(now_ms)

    def _tell_failures(self, now_ms: float) -> None:
        """Again: an older report that came late may have made metasrv believe that such a region serves."""
        for region in self._regions.values():
            due = now_ms - region.failure_told_ms >= self._context.config.tell_again_ms
            if region.state is State.FAILED and region.failure is not None and due:
                region.failure_told_ms = now_ms
                self._context.report(region.failure)

    async def _maintain(self, region: Region, reason: str) -> None:
        try:
            await self.flush(region, reason)
            while await self._flusher.compact(region):
                pass
            await self._flusher.clean(region)
        except (Fenced, NotOwned, StoreUnavailable) as error:
            log.info("flush_put_off", region_id=region.region_id, why=str(error))
        except (Damaged, NotFound) as error:
            if region.state is State.SERVING:  # else it is read-only since the flush, and has said so
                log.exception("compaction_failed", region_id=region.region_id, why=str(error))
        finally:
            self._busy.discard(region.region_id)

    async def flush(self, region: Region, reason: str) -> None:
        """Flush one region now. Raises NotOwned, StoreUnavailable, Fenced (the region is closed already)."""
        await self._flusher.flush(region, reason)

    def refresh_gauges(self) -> None:
        """Bring the gauges up to date: somebody looks."""
        metrics, now_ms = self._context.metrics, self._context.clock.now_ms()
        metrics.memory.set(self._context.memory.used_bytes)
        metrics.memory_budget.set(self._context.config.memory_budget_bytes)
        metrics.unflushed.set(sum(region.unflushed_bytes for region in self._regions.values()))
        metrics.store_probe_age.set(max(0.0, now_ms - self.probe_ok_ms))
        for lane in self._context.lanes.values():
            index = str(lane.index)  # there are few lanes, and each incarnation has the same ones
            metrics.lane_open.labels(index).set(lane.is_open and not lane.sealed)
            metrics.lane_append_age.labels(index).set(max(0.0, now_ms - lane.last_append_ms))
            metrics.lane_appends_waiting.labels(index).set(lane.appends_waiting)
            metrics.lane_appended.labels(index).set(lane.appended_bytes)
        states = [r.state for r in self._regions.values()]
        for state in State:
            metrics.regions.labels(state.value).set(states.count(state))

    # ---------------------------------------------------------------- proof of work

    async def _canaries(self) -> None:
        every_ms = self._context.config.canary_ms
        while True:
            await self._context.clock.sleep(every_ms)
            for lane in self._context.lanes.values():
                if lane.is_open and self._context.clock.now_ms() - lane.last_append_ms >= every_ms:
                    self.spawn(lane.canary(), f"canary {lane.index}")

    async def _probes(self) -> None:
        while True:
            try:
                await self._context.store.get(f"probes/{self._context.node_id}")
            except NotFound:
                pass  # an answer is what was asked for
            except StoreError as error:
                log.warning("store_probe_failed", why=str(error))
                await self._context.clock.sleep(self._context.config.probe_ms)
                continue
            self.probe_ok_ms = self._context.clock.now_ms()
            await self._context.clock.sleep(self._context.config.probe_ms)

    # ---------------------------------------------------------------- trims

    def trim(self, lane: Lane, below: int) -> None:
        """Carry a trim order out: its position was computed by the leader, and a trim point only grows."""
        if below > self._trims.get(lane, 0):
            self._trims[lane] = below
            self.spawn(self._trim(lane, below), f"trim {lane}")

    async def _trim(self, lane: Lane, below: int) -> None:
        for _ in range(TRIM_ATTEMPTS_MAX):
            if self._trims.get(lane, 0) > below:
                return  # a later order does more
            try:
                await self._context.logs.trim(lane, below)
            except StoreUnavailable as error:
                log.warning("trim_waits", lane=str(lane), below=below, why=str(error))
                await self._context.clock.sleep(self._context.config.retry_ms_max)
                continue
            except LaneError as error:
                log.exception("trim_failed", lane=str(lane), below=below, why=str(error))
                return
            log.info("lane_trimmed", lane=str(lane), below=below)
            return
        self._trims.pop(lane, None)


def _load(region: Region, now_ms: float) -> flush_policy.RegionLoad:
    assert region.lane is not None and region.manifest is not None
    first_ms = region.memtable.first_ms
    return flush_policy.RegionLoad(
        region.region_id, region.lane.index, region.unflushed_bytes, now_ms - first_ms if first_ms is not None else 0.0,
        region.stay.covered, any(s.end is not None for s in region.manifest.stays), now_ms - region.committed_ms,
    )  # fmt: skip
