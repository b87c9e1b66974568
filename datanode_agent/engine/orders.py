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
from datanode_agent.engine.departed import Departed
from datanode_agent.engine.dropped import Dropped
from datanode_agent.engine.flushing import Flusher
from datanode_agent.engine.handover import Handover
from datanode_agent.engine.lanes import OwnLane
from datanode_agent.engine.manifests import Manifests
from datanode_agent.engine.opening import Opener, OpenFailed
from datanode_agent.engine.region import KINDS, OWNS, Region, tell_lane, view_of
from datanode_agent.engine.replaying import Replays
from datanode_agent.engine.tailing import Tails
from datanode_agent.engine.waiting import Changed, outcome_seen, within
from datanode_agent.engine.warm import WarmRegions
from groundwork.core.entry import Entry, Kind
from groundwork.core.errors import Damaged, LaneError, StoreUnavailable
from groundwork.core.manifest import StayKey
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()
DAMAGE_SAID_MAX = 20


class Orders:
    """All regions of one incarnation, and what is to be done with them."""

    def __init__(self, context: Context, regions: dict[int, Region], departed: Departed) -> None:
        self.manifests = Manifests(context)
        self.flusher = Flusher(context, self.manifests, self.fail, self.damaged)
        self.dropped = Dropped(context, self.manifests)
        self._context = context
        self._regions = regions
        self._departed = departed
        self.arrived = Changed()  # an order came, perhaps for a region that requests wait for
        self._replays = Replays(context)
        self._tails = Tails(context)
        self._opener = Opener(context, self.manifests, self._replays)
        self._handover = Handover(context, self.manifests, self._replays, self._tails)
        self._warm = WarmRegions()
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
        self._departed.remember(region.region_id, told.epoch, order)
        self._regions.pop(region.region_id, None)
        region.changed.notify()
        log.info("region_closed", region_id=region.region_id, epoch=region.epoch, was=held)
        if report:
            told.closed.SetInParent()
            self._context.report(told)

    def fail(self, region: Region, kind: str, message: str, stay: StayKey | None = None) -> None:
        """The region is out under this epoch: it serves nothing, holds nothing, and says so. `stay` is in its way."""
        left = region.stay.key if kind == "fenced" and region.state in OWNS else None
        lane = region.lane
        report = self._failed_report(region, kind, message, stay or left)
        owned = region.state is not State.PREPARING
        if not region.step(Event.FAIL):
            return
        region.failure, region.failure_told_ms = report if owned else None, self._context.clock.now_ms()
        region.failed_on = view_of(region.working_on).content if region.working_on else None
        self._end_task(region)
        self._forget(region)
        log.warning("region_failed", region_id=region.region_id, epoch=region.epoch, kind=kind, why=message)
        if left is not None and lane is not None and not lane.sealed:
            self._keep(self._report_left(report, lane), f"left {region.region_id}")
        else:
            self._context.report(report)
        if region.working_on is not None and region.working_on.kind == nodes_pb2.DROP:
            self._keep(self._drop_again(region), f"drop again {region.region_id}")

    async def _drop_again(self, region: Region) -> None:
        """A drop has no other order to come: what was in its way may have gone by itself."""
        await self._context.clock.sleep(self._context.config.tell_again_ms)
        if region.state is State.FAILED and region.order is not None and region.order.kind == nodes_pb2.DROP:
            region.failed_on = None
            self.look_again(region)

    def damaged(self, region: Region, message: str) -> None:
        """A serving region has rows that cannot be used: reads only, said once, until an operator accepts the loss."""
        if not region.step(Event.DAMAGED):
            return
        log.error("region_damaged", region_id=region.region_id, epoch=region.epoch, why=message)
        report = self._failed_report(region, "damaged", message)
        report.failed.read_only = True
        self._context.report(report)

    async def _report_left(self, report: nodes_pb2.RegionReport, lane: OwnLane) -> None:
        """Say also where its stay ended, if a barrier behind its last append comes through soon: then all are settled.

        With that position the region can be claimed again though its lane lives.
        """
        barrier = Entry(Kind.BARRIER, report.region_id, report.epoch, 0, 0, 0, b"")
        settling = asyncio.get_running_loop().create_task(lane.append(barrier))
        settling.add_done_callback(outcome_seen)
        try:
            if await within(self._context.clock, settling, self._context.config.retry_ms_max):
                report.failed.position = settling.result() + 1
        except (LaneError, StoreUnavailable) as error:
            log.warning("stay_left_open", region_id=report.region_id, lane=str(lane.lane), why=str(error))
        finally:
            settling.cancel()
        self._context.report(report)

    # ---------------------------------------------------------------- tasks

    async def _open(self, region: Region, order: nodes_pb2.Order) -> None:
        began_ms = self._context.clock.now_ms()
        warm = self._warm.of(region.region_id)
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
        if lane.sealed:  # since it was looked at: this region was not among those that were told
            self.fail(region, "lane_over", f"lane {lane.lane} ended while the region was opened there")
            return
        metrics = self._context.metrics
        metrics.open_ms.observe(self._context.clock.now_ms() - began_ms)
        metrics.seal_ms.observe(opened.seal_ms)
        metrics.replay_ms.observe(opened.replay_ms)
        if opened.damage and order.accept_loss:
            log.error(
                "loss_accepted", region_id=region.region_id, epoch=region.epoch, places=len(opened.damage),
                first=[(d.position, d.reason) for d in opened.damage[:DAMAGE_SAID_MAX]],
                means="these entries are lost for good: the region serves without them",
            )  # fmt: skip
        elif opened.damage:
            worst = opened.damage[0]
            self._context.metrics.opens.labels("damaged").inc()
            self.damaged(
                region,
                f"{len(opened.damage)} damaged places in lanes that it replayed, the first at {worst.position}:"
                f" {worst.reason}; open for reads only until an operator accepts the loss",
            )
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
        await self._handover.prepare(region, order, self._warm.of(region.region_id))

    async def _stop(self, region: Region, order: nodes_pb2.Order) -> None:
        region.epoch = max(region.epoch, order.epoch)
        position = await self._handover.quiet(region)
        if region.step(Event.QUIET):
            self._handover.report_stopped(region, position)

    async def _drop(self, region: Region, order: nodes_pb2.Order) -> None:
        self._opener.announce(region.region_id, order)
        await self._handover.drop(region, order)
        await self.dropped.note(region.region_id)
        region.step(Event.DROPPED)
        self._regions.pop(region.region_id, None)
        self._departed.remember(region.region_id, order.epoch)
        report = region.make_report()
        report.closed.SetInParent()
        self._context.report(report)

    def _spawn(self, region: Region, work: Coroutine[Any, Any, None], name: str) -> None:
        region.task = self._keep(self._guard(region, work), name)
        region.task.add_done_callback(lambda _: work.close())  # cancelled before its first turn, it never awaits it

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, region: Region, work: Coroutine[Any, Any, None]) -> None:
        """A task's failures become the region's: reported, never swallowed."""
        me = asyncio.current_task()
        try:
            await work
        except OpenFailed as error:
            self._failed(region, me, error.kind, str(error), error.stay)
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
                        self._warm.drop(region.region_id)
        if region.task is None:
            self.look_again(region)

    def _failed(
        self, region: Region, task: "asyncio.Task[None] | None", kind: str, message: str, stay: StayKey | None = None
    ) -> None:
        if region.task is task:
            region.task = None
            self.fail(region, kind, message, stay)

    # ---------------------------------------------------------------- letting go

    def _end_task(self, region: Region) -> None:
        task, region.task = region.task, None
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()

    def _forget(self, region: Region) -> None:
        self._replays.forget(region.region_id)
        self._tails.leave(region.region_id)
        self._warm.drop(region.region_id)
        region.release()

    @staticmethod
    def _failed_report(region: Region, kind: str, message: str, stay: StayKey | None = None) -> nodes_pb2.RegionReport:
        report = region.make_report()
        if region.state is State.PREPARING and region.working_on is not None:
            report.epoch = region.working_on.epoch  # its owner's: this node has none
        report.failed.kind, report.failed.message = kind, message
        if stay is not None:
            report.failed.lane.CopyFrom(tell_lane(stay[0]))
            report.failed.stay_epoch = stay[1]
        return report

    def lane_sealed(self, lane: OwnLane) -> None:
        """A lane of ours takes no append any more: another sealed it, or it is damaged. Its regions go elsewhere."""
        for region in [r for r in self._regions.values() if r.lane is lane]:
            self.fail(region, "lane_over", f"lane {lane.lane} is over: the region has, or will have, another owner")

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
