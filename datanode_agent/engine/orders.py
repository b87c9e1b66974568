"""Orders carried out: each region's standing order is compared with its state, and the next step is begun.

What takes a region away or stops it happens at once, in the call that brings the order; what takes time is the one
task of the region. When that ends, the standing order is looked at again.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from datanode_agent.core.region_state import Event, State, decide
from datanode_agent.engine.context import Context
from datanode_agent.engine.flushing import Flusher
from datanode_agent.engine.handover import Handover
from datanode_agent.engine.lanes import OwnLane
from datanode_agent.engine.manifests import Manifests
from datanode_agent.engine.opening import Opener, OpenFailed, Warm
from datanode_agent.engine.region import KINDS, Region, view_of
from datanode_agent.engine.replaying import Replays
from datanode_agent.engine.tailing import Tails
from datanode_agent.engine.waiting import Changed
from groundwork.core.errors import Damaged, LaneError
from groundwork.core.manifest import StayKey
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()
KNOWN_MAX = 100_000


class Orders:
    """All regions of one incarnation, and what is to be done with them."""

    def __init__(self, context: Context, regions: dict[int, Region], known: dict[int, int]) -> None:
        self.manifests = Manifests(context)
        self.flusher = Flusher(context, self.manifests, self.fail)
        self._context = context
        self._regions = regions
        self._known = known
        self.arrived = Changed()  # an order came, perhaps for a region that requests wait for
        self._replays = Replays(context)
        self._tails = Tails(context)
        self._opener = Opener(context, self.manifests, self._replays)
        self._handover = Handover(context, self.manifests, self._replays, self._tails)
        self._warm: dict[int, dict[StayKey, Warm]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- orders in

    def apply(self, reply: nodes_pb2.OrdersReply) -> None:
        """Take a reply's orders."""
        due: list[tuple[Region, Event]] = []
        for order in reply.orders:
            region = self._regions.get(order.region_id)
            if region is None:
                if order.kind in (nodes_pb2.CLOSE, nodes_pb2.STOP):
                    self._answer_absent(order)
                    continue
                region = self._regions[order.region_id] = Region(self._context, order.region_id)
            if order.kind not in KINDS or (region.order and order.revision < region.order.revision):
                continue
            region.order = order
            event = decide(region.view, view_of(order))
            if event is not None:
                due.append((region, event))
        if reply.snapshot:
            named = {order.region_id for order in reply.orders}
            for region in [r for i, r in self._regions.items() if i not in named]:
                region.order = None
                self._close(region, report=False)
        for region, event in due:
            if event in (Event.OPEN, Event.RESUME) and region.order is not None:
                self._opener.announce(region.region_id, region.order)
        for region, event in due:
            self._begin(region, event)
        self.arrived.notify()

    def _answer_absent(self, order: nodes_pb2.Order) -> None:
        """CLOSE of what is not here is done."""
        if order.kind == nodes_pb2.CLOSE:
            report = nodes_pb2.RegionReport(region_id=order.region_id, epoch=order.epoch)
            report.closed.SetInParent()
            self._context.report(report)

    def look_again(self, region: Region) -> None:
        """A task of the region ended: what does its standing order ask now?"""
        if region.order is None or self._regions.get(region.region_id) is not region:
            return
        event = decide(region.view, view_of(region.order))
        if event is not None:
            self._begin(region, event)

    def _begin(self, region: Region, event: Event) -> None:
        order = region.order
        assert order is not None
        if event is Event.CLOSE:
            self._close(region, report=order.kind == nodes_pb2.CLOSE)
            if order.kind != nodes_pb2.CLOSE:
                self._regions[region.region_id] = region
                self.look_again(region)
            return
        if event is Event.RESUME:
            self._resume(region, order)
            return
        if event is Event.DROP:
            self._end_task(region)
            self._forget(region)
        if not region.step(event):
            return
        self._end_task(region)
        region.working_on = order
        region.attempt = max(region.attempt, order.attempt)
        if event is not Event.PREPARE:
            region.epoch = order.epoch
        work = {Event.OPEN: self._open, Event.PREPARE: self._prepare, Event.STOP: self._stop, Event.DROP: self._drop}[
            event
        ]
        self._spawn(region, work(region, order), f"{event} {region.region_id}")

    def _resume(self, region: Region, order: nodes_pb2.Order) -> None:
        """Go on in the stay it has, under a new epoch, without a claim."""
        self._replays.forget(region.region_id)
        self._end_task(region)
        region.epoch = region.served_epoch = order.epoch
        region.working_on = order
        region.step(Event.RESUME)
        log.info("region_resumed", region_id=region.region_id, epoch=region.epoch, state=region.state)
        if region.state is State.SERVING:
            report = region.make_report()
            report.serving.SetInParent()
            self._context.report(report)

    def _close(self, region: Region, *, report: bool) -> None:
        self._end_task(region)
        order = region.order
        told = nodes_pb2.RegionReport(region_id=region.region_id, epoch=max(region.epoch, order.epoch if order else 0))
        held = region.state
        region.step(Event.CLOSE)
        self._forget(region)
        self._remember(region.region_id, told.epoch)
        self._regions.pop(region.region_id, None)
        region.changed.notify()
        log.info("region_closed", region_id=region.region_id, epoch=region.epoch, was=held)
        if report:
            told.closed.SetInParent()
            self._context.report(told)

    def fail(self, region: Region, kind: str, message: str) -> None:
        """The region is out under this epoch: it serves nothing, holds nothing, and says so."""
        if not region.step(Event.FAIL):
            return
        region.failed_on = view_of(region.working_on).content if region.working_on else None
        self._end_task(region)
        self._forget(region)
        log.warning("region_failed", region_id=region.region_id, epoch=region.epoch, kind=kind, why=message)
        self._report_failed(region, kind, message, read_only=False)

    # ---------------------------------------------------------------- tasks

    async def _open(self, region: Region, order: nodes_pb2.Order) -> None:
        began_ms = self._context.clock.now_ms()
        warm = self._warm.get(region.region_id, {})
        self._tails.leave(region.region_id)
        lane = self._context.lanes.get(order.lane_index)
        if order.kind == nodes_pb2.RESUME or region.served_epoch >= order.epoch:
            # Its rows are in the lane only, and metasrv does not know of another claim under this epoch.
            self.fail(region, "closed", f"it failed and holds nothing any more to go on with under epoch {order.epoch}")
            return
        if lane is None or lane.sealed:
            self.fail(region, "lane_over", f"lane {order.lane_index} of this incarnation takes no appends")
            return
        opened = await self._opener.open(region, order, lane, warm, region.known_version)
        self._context.metrics.open_ms.observe(self._context.clock.now_ms() - began_ms)
        if opened.damage:
            worst = opened.damage[0]
            region.step(Event.DAMAGED)
            message = (
                f"{len(opened.damage)} damaged places in lanes that it replayed, the first at {worst.position}:"
                f" {worst.reason}; open for reads only until an operator accepts the loss"
            )
            log.error("region_damaged", region_id=region.region_id, epoch=region.epoch, why=message)
            self._context.metrics.opens.labels("damaged").inc()
            self._report_failed(region, "damaged", message, read_only=True)
            return
        region.claimed_ms = self._context.clock.now_ms()
        region.served_epoch = region.epoch
        region.step(Event.OPENED)
        self._context.metrics.opens.labels("serving").inc()
        report = region.make_report()
        serving = report.serving
        serving.replayed_entries = opened.replayed_entries
        serving.seal_ms, serving.claim_ms = int(opened.seal_ms), int(opened.claim_ms)
        serving.replay_ms = int(opened.replay_ms)
        log.info(
            "region_serves", region_id=region.region_id, epoch=region.epoch, entries=opened.replayed_entries,
            took_ms=round(self._context.clock.now_ms() - began_ms, 1),
        )  # fmt: skip
        self._context.report(report)

    async def _prepare(self, region: Region, order: nodes_pb2.Order) -> None:
        await self._handover.prepare(region, order, self._warm.setdefault(region.region_id, {}))

    async def _stop(self, region: Region, order: nodes_pb2.Order) -> None:
        region.epoch = max(region.epoch, order.epoch)
        position = await self._handover.quiet(region)
        if region.step(Event.QUIET):
            self._handover.report_stopped(region, position)

    async def _drop(self, region: Region, order: nodes_pb2.Order) -> None:
        self._opener.announce(region.region_id, order)
        await self._handover.drop(region, order)
        region.step(Event.DROPPED)
        self._regions.pop(region.region_id, None)
        self._remember(region.region_id, order.epoch)
        report = region.make_report()
        report.closed.SetInParent()
        self._context.report(report)

    def _spawn(self, region: Region, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(region, work), name=name)
        region.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, region: Region, work: Coroutine[Any, Any, None]) -> None:
        """A task's failures become the region's: reported, never swallowed."""
        me = asyncio.current_task()
        try:
            await work
        except OpenFailed as error:
            self._failed(region, me, error.kind, str(error))
        except Damaged as error:
            self._failed(region, me, "damaged", str(error))
        except LaneError as error:
            self._failed(region, me, "lane_over", str(error))
        except Exception as error:
            log.exception("region_task_failed", region_id=region.region_id)
            self._failed(region, me, "internal", f"{type(error).__name__}: {error}")
            raise
        finally:
            if region.task is me:
                region.task = None
                if region.state is not State.PREPARING:
                    self._replays.forget(region.region_id)
                    if region.state is not State.OPENING:
                        self._warm.pop(region.region_id, None)
        if region.task is None:
            self.look_again(region)

    def _failed(self, region: Region, task: "asyncio.Task[None] | None", kind: str, message: str) -> None:
        if region.task is task:
            region.task = None
            self.fail(region, kind, message)

    # ---------------------------------------------------------------- letting go

    def _end_task(self, region: Region) -> None:
        task, region.task = region.task, None
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()

    def _forget(self, region: Region) -> None:
        self._replays.forget(region.region_id)
        self._tails.leave(region.region_id)
        self._warm.pop(region.region_id, None)
        region.release()

    def _remember(self, region_id: int, epoch: int) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[region_id] = max(epoch, self._known.get(region_id, 0))

    def _report_failed(self, region: Region, kind: str, message: str, *, read_only: bool) -> None:
        report = region.make_report()
        report.failed.kind, report.failed.message, report.failed.read_only = kind, message, read_only
        self._context.report(report)

    def lane_sealed(self, lane: OwnLane) -> None:
        """Another sealed a lane of ours: metasrv has ended it, and its regions have other owners."""
        for region in [r for r in self._regions.values() if r.lane is lane]:
            self.fail(region, "lane_over", f"lane {lane.lane} was sealed: the region has, or will have, another owner")

    async def close(self) -> None:
        """Close every region at once and wait for what was cancelled."""
        tasks = list(self._tasks)
        for region in list(self._regions.values()):
            region.order = None
            self._close(region, report=False)
        for task in tasks:
            task.cancel()
        self._replays.close()
        self._tails.close()
        await asyncio.gather(*tasks, return_exceptions=True)
