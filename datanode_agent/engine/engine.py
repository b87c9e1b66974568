"""The region engine of one datanode: lanes, regions, and the orders of metasrv carried out on them.

Everything runs on one event loop; heavy work goes through the Workers port. See docs/regions.md.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from datanode_agent.core.memory import MemoryBudget
from datanode_agent.core.region_state import State
from datanode_agent.engine.config import EngineConfig
from datanode_agent.engine.context import Context, LeaseView, Report
from datanode_agent.engine.departed import Departed
from datanode_agent.engine.flushing import NotOwned
from datanode_agent.engine.lanes import OwnLane
from datanode_agent.engine.manifests import Fenced
from datanode_agent.engine.metrics import EngineMetrics
from datanode_agent.engine.orders import Orders
from datanode_agent.engine.region import OWNS, Region, lane_of
from datanode_agent.engine.scanning import Scanner
from datanode_agent.engine.upkeep import Upkeep
from datanode_agent.engine.writing import Writer
from groundwork.core.check import require
from groundwork.core.errors import Damaged, StoreUnavailable
from groundwork.core.ids import Lane
from groundwork.core.ports import Clock, LogStore, ObjectStore, Workers
from protos.datanode.v1 import datanode_pb2
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()
__all__ = ["Engine", "EngineConfig", "LaneHealth", "LeaseView", "Report"]


class LaneHealth(NamedTuple):
    """Proof of work of one lane."""

    lane_index: int
    open: bool  # its OPEN mark is durable
    append_age_ms: float  # since the last append (or canary append) that became durable, or since it opened


class Engine:
    """See the module docstring. Methods are called on the loop, except where they say otherwise."""

    def __init__(
        self,
        *,
        node_id: str,
        store: ObjectStore,
        logs: LogStore,
        clock: Clock,
        workers: Workers,
        config: EngineConfig,
        lease: LeaseView,
        report: Report,
        registry: CollectorRegistry | None = None,
        crashed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """`crashed` is told of a defect behind which the process must not go on."""
        self._crashed = crashed
        self._context = Context(
            node_id, store, logs, clock, workers, config, lease, report, EngineMetrics(registry),
            MemoryBudget(config.memory_budget_bytes),
        )  # fmt: skip
        self._regions: dict[int, Region] = {}
        self._departed = Departed()
        self._revision = 0
        self._rate = (clock.now_ms(), 0, 0)  # (when, rows acknowledged then, rows per second)
        self._running = False
        self._assemble()

    def _assemble(self) -> None:
        """The parts of one incarnation."""
        context = self._context
        self._orders = Orders(context, self._regions, self._departed)
        self._writer = Writer(context, self._regions, self._departed, self._orders.flusher, self._orders.arrived)
        self._scanner = Scanner(context, self._writer)
        self._upkeep = Upkeep(context, self._regions, self._orders.flusher, self._crashed)

    # ---------------------------------------------------------------- life

    async def start(self, incarnation: int, lanes: int) -> None:
        """Open this incarnation's lane writers (their OPEN marks) and begin. Raises Sealed, StoreUnavailable."""
        require(not self._running, "the engine is started already")
        context = self._context
        context.incarnation = incarnation
        context.lanes.clear()
        for index in range(lanes):
            own = OwnLane(context, Lane(context.node_id, incarnation, index), self._orders.lane_sealed)
            context.lanes[index] = own
        await asyncio.gather(*(own.open() for own in context.lanes.values()))
        self._running = True
        self._upkeep.start()
        self._upkeep.keep(self._orders.dropped.run(), "dropped")
        log.info("engine_started", incarnation=incarnation, lanes=lanes)

    def admit(self, lanes: Sequence[int]) -> None:
        """A grant that was asked for after OPEN was durable named these lanes: their appends may be acknowledged."""
        for index in lanes:
            if index in self._context.lanes:
                self._context.lanes[index].admit()

    async def stop(self, flush: bool) -> None:
        """End cleanly; with `flush`, every serving region is flushed first. Lanes are closed, not sealed."""
        if flush:
            await self.flush([])
        await self._end()
        await asyncio.gather(*(lane.close() for lane in self._context.lanes.values()), return_exceptions=True)

    async def abandon(self) -> None:
        """This incarnation was superseded: close every region at once and forget all. start() may follow."""
        lanes = list(self._context.lanes.values())
        await self._end()
        self._context.lanes.clear()
        self._revision = 0
        self._departed.clear()
        self._assemble()
        # What is still in flight belongs to lanes that are over: nobody waits for it.
        for lane in lanes:
            self._upkeep.spawn(lane.close(), f"close {lane.lane}")

    async def _end(self) -> None:
        self._running = False
        for lane in self._context.lanes.values():
            lane.shut()
        await self._orders.close()
        await self._upkeep.close()
        await self._orders.flusher.close()
        self._orders.arrived.notify()

    # ---------------------------------------------------------------- orders

    def apply(self, reply: nodes_pb2.OrdersReply) -> None:
        """Take orders: idempotent, at once; work goes on in tasks. Older revisions, epochs and attempts are ignored.

        Returns when every region that was taken away or stopped refuses writes already.
        """
        if not self._running or reply.revision < self._revision:
            return
        self._revision = reply.revision
        for table in reply.tables:
            self._context.learn(table)
        if reply.tables:
            self._context.tables_changed.notify()
        self._orders.apply(reply)
        for order in reply.trims:
            self._upkeep.trim(lane_of(order.lane), order.below)

    # ---------------------------------------------------------------- data

    async def write(
        self, writes: Sequence[datanode_pb2.RegionWrite], deadline_ms: float
    ) -> list[datanode_pb2.RegionOutcome]:
        """Write rows; one outcome per write, in order. `deadline_ms` is what is left of the caller's patience."""
        outcomes = await self._writer.write(writes, deadline_ms)
        if self._context.memory.pressed:
            self._upkeep.nudge()
        return outcomes

    def scan(self, request: datanode_pb2.ScanRequest, deadline_ms: float) -> AsyncIterator[datanode_pb2.ScanReply]:
        """Rows of one region as pieces of one Arrow IPC stream; or a refusal, also in the middle of it."""
        return self._scanner.scan(request, deadline_ms)

    async def flush(self, region_ids: Sequence[int]) -> list[datanode_pb2.RegionOutcome]:
        """Flush these regions now (none given: all that this node owns)."""
        chosen = region_ids or [r.region_id for r in self._regions.values() if r.state in OWNS]
        return list(await asyncio.gather(*(self._flush(region_id) for region_id in chosen)))

    async def _flush(self, region_id: int) -> datanode_pb2.RegionOutcome:
        outcome = datanode_pb2.RegionOutcome(region_id=region_id, outcome=datanode_pb2.NOT_OWNER)
        region = self._regions.get(region_id)
        if region is None:
            outcome.message = "this node does not own the region"
            return outcome
        outcome.epoch = region.epoch
        try:
            await self._upkeep.flush(region, "demand")
            outcome.outcome = datanode_pb2.DONE
        except (NotOwned, Fenced) as error:
            outcome.message = str(error)
        except StoreUnavailable as error:
            outcome.outcome, outcome.message = datanode_pb2.UNKNOWN_OUTCOME, str(error)
        except Damaged as error:
            outcome.outcome, outcome.message = datanode_pb2.READ_ONLY, str(error)
        return outcome

    # ---------------------------------------------------------------- what goes on

    def regions(self) -> list[datanode_pb2.RegionInfo]:
        """What this node holds, for operators."""
        return [self._describe(region) for region in self._regions.values()]

    def _describe(self, region: Region) -> datanode_pb2.RegionInfo:
        info = datanode_pb2.RegionInfo(
            region_id=region.region_id, epoch=region.epoch, state=region.state.value,
            memtable_bytes=region.unflushed_bytes,
        )  # fmt: skip
        if region.lane is not None:
            info.lane = str(region.lane.lane)
        if region.manifest is not None:
            info.sst_files = len(region.manifest.ssts)
            info.sst_bytes = sum(s.bytes for s in region.manifest.ssts)
            info.manifest_version = region.manifest.version
        return info

    def lanes_health(self) -> list[LaneHealth]:
        """Proof of work per lane. Reads plain numbers only: may be called from the heartbeat thread."""
        now_ms = self._context.clock.now_ms()
        return [
            LaneHealth(lane.index, lane.is_open and not lane.sealed, max(0.0, now_ms - lane.last_append_ms))
            for lane in list(self._context.lanes.values())
        ]

    @property
    def out_of_lanes(self) -> bool:
        """Whether it runs and no lane of its incarnation takes appends any more: it can be given nothing to do."""
        lanes = self._context.lanes.values()
        return self._running and bool(lanes) and all(lane.sealed for lane in lanes)

    def store_probe_age_ms(self) -> float:
        """Milliseconds since the object store last answered. May be called from the heartbeat thread."""
        return max(0.0, self._context.clock.now_ms() - self._upkeep.probe_ok_ms)

    def unflushed_bytes(self) -> int:
        """Bytes in memtables. May be called from the heartbeat thread."""
        return sum(region.unflushed_bytes for region in list(self._regions.values()))

    def memory_bytes(self) -> int:
        """Bytes counted against the memory budget. May be called from the heartbeat thread."""
        return self._context.memory.used_bytes

    def write_rows_per_s(self) -> int:
        """Rows acknowledged per second, lately. May be called from the heartbeat thread."""
        now_ms, total = self._context.clock.now_ms(), self._writer.rows_acknowledged
        since_ms, before, rate = self._rate
        if now_ms - since_ms >= 1_000:
            rate = max(0, int((total - before) / (now_ms - since_ms) * 1_000))
            self._rate = (now_ms, total, rate)
        return rate

    def refresh_gauges(self) -> None:
        """Bring the gauges up to date: somebody looks."""
        self._upkeep.refresh_gauges()

    def serving(self) -> int:
        """How many regions serve here."""
        return sum(region.state is State.SERVING for region in self._regions.values())
