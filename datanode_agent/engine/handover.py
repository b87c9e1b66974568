"""The moves of a migration on either side, and a drop: prepare, stop, and the tombstone."""

import structlog

from datanode_agent.core.region_state import State
from datanode_agent.engine.context import Context
from datanode_agent.engine.manifests import Manifests
from datanode_agent.engine.opening import CLAIM_ATTEMPTS_MAX, OpenFailed
from datanode_agent.engine.region import Region, lane_of, tell_lane
from datanode_agent.engine.replaying import Replays
from datanode_agent.engine.tailing import Tails, no_room
from datanode_agent.engine.warm import Warm
from groundwork.core.entry import Entry, Kind
from groundwork.core.errors import StoreUnavailable, Trimmed
from groundwork.core.manifest import Manifest, Origin, StayKey, Stop, drop
from groundwork.core.table import Schema
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()


class Handover:
    """Of one incarnation."""

    def __init__(self, context: Context, manifests: Manifests, replays: Replays, tails: Tails) -> None:
        self._context = context
        self._manifests = manifests
        self._replays = replays
        self._tails = tails

    # ---------------------------------------------------------------- the target

    async def prepare(self, region: Region, order: nodes_pb2.Order, warm: dict[StayKey, Warm]) -> None:
        """Tail the owner's lane until cancelled; reports once it has caught up. Claims nothing."""
        lane = lane_of(order.from_lane)
        reported = False
        at_least = 0
        while True:
            manifest = await self._manifests.newest(region.region_id, at_least)
            stay = next((s for s in manifest.stays if s.lane == lane and s.end is None), None) if manifest else None
            if manifest is None or stay is None:
                await self._context.clock.sleep(self._context.config.retry_ms)  # its owner has not claimed it yet
                continue
            at_least = manifest.version
            region.known_version, region.prepared = manifest.version, manifest
            try:
                await self._closed_stays(region, manifest, warm)
            except Trimmed:
                continue  # flushed and trimmed meanwhile: there is a newer manifest
            tail = self._tails.of(lane)
            tail.join(region.region_id, self._begin(warm, stay.key, stay.covered, stay.covered))
            while not tail.lost(region.region_id):
                if tail.caught_up(region.region_id) and not reported:
                    reported = True
                    self._report_prepared(region, order, warm[stay.key])
                await tail.progress.wait()

    async def _closed_stays(self, region: Region, manifest: Manifest, warm: dict[StayKey, Warm]) -> None:
        """Read what former owners left, each lane once; then it is warm, and the hand-over reads none of it again."""
        region_id = region.region_id
        missing = [
            (stay, stay.end, self._replays.of(stay.lane, region_id))
            for stay in manifest.stays
            if stay.end is not None and (stay.key not in warm or warm[stay.key].start > stay.covered)
        ]
        for stay, end, replay in missing:
            if stay.covered < end:
                replay.need(region_id, stay.covered, end)
        for stay, end, replay in missing:
            found = await replay.collect(region_id, stay.covered, end)
            self._begin(warm, stay.key, stay.covered, end).take(found)
            if self._context.memory.crowded:
                raise no_room(self._context.memory)
        self._replays.forget(region_id)

    def _begin(self, warm: dict[StayKey, Warm], key: StayKey, start: int, until: int) -> Warm:
        """Empty warm rows of a stay, in the place of older ones."""
        if key in warm:
            warm[key].drop()
        warm[key] = Warm(start, until, self._context.memory)
        return warm[key]

    def _report_prepared(self, region: Region, order: nodes_pb2.Order, warm: Warm) -> None:
        report = nodes_pb2.RegionReport(region_id=region.region_id, epoch=order.epoch)
        report.prepared.attempt, report.prepared.position = order.attempt, warm.until
        log.info("region_prepared", region_id=region.region_id, attempt=order.attempt, position=warm.until)
        self._context.report(report)

    # ---------------------------------------------------------------- the owner

    async def quiet(self, region: Region) -> int:
        """Wait for the outcome of the region's last append; the position that ends its stay. Flushes nothing.

        Raises Sealed. An append that ended without a known outcome is settled by a barrier behind it: appends become
        durable as a contiguous prefix.
        """
        while region.pending:
            await region.changed.wait()
        while region.uncertain:
            assert region.lane is not None
            try:
                await region.lane.append(Entry(Kind.BARRIER, region.region_id, region.epoch, 0, 0, 0, b""))
                region.uncertain = False
            except StoreUnavailable as error:
                log.warning("stop_waits", region_id=region.region_id, why=str(error))
                await self._context.clock.sleep(self._context.config.retry_ms)
        return max(region.last_position + 1, region.stay.start, region.stay.covered)

    def report_stopped(self, region: Region, position: int) -> None:
        """The committed last position is what the next owner replays to."""
        report = region.make_report()
        report.stopped.attempt = region.attempt
        report.stopped.lane.CopyFrom(tell_lane(region.stay.lane))
        report.stopped.stay_epoch, report.stopped.position = region.stay.epoch, position
        log.info("region_stopped", region_id=region.region_id, attempt=region.attempt, position=position)
        self._context.report(report)

    # ---------------------------------------------------------------- drop

    async def drop(self, region: Region, order: nodes_pb2.Order) -> None:
        """Write the tombstone. Raises OpenFailed. A zombie's lane is sealed first, so that none acks behind it."""
        ends = {(lane_of(e.lane), e.stay_epoch) for e in order.ends}
        over = {lane_of(told) for told in order.over}
        nonce = f"drop-{self._context.incarnation:x}-{order.epoch:x}"
        origin = self._context.origin(region.region_id) or Origin(region.region_id, Schema(0, ()))
        for _ in range(CLAIM_ATTEMPTS_MAX):
            current = await self._manifests.newest(region.region_id)
            if current is not None and current.tombstone:
                return
            for stay in current.stays if current else ():
                mine = (stay.lane.node_id, stay.lane.incarnation) == (self._context.node_id, self._context.incarnation)
                if stay.end is not None or stay.key in ends or mine:
                    continue
                if stay.lane not in over:
                    raise OpenFailed(
                        "lane_not_over",
                        f"the stay in lane {stay.lane} is open and the lane is not committed as over",
                        stay.key,
                    )
                await self._replays.of(stay.lane, region.region_id).seal()
            following = drop(current, order.epoch, self._context.node_id, nonce, origin)
            if isinstance(following, Stop):
                raise OpenFailed(following.kind, following.reason, following.stay)
            written = await self._manifests.put(following)
            if written is not None and await self._manifests.counts(written):
                log.info("region_dropped", region_id=region.region_id, epoch=order.epoch, state=State.DROPPING)
                return
        raise OpenFailed("store_unavailable", f"the drop was overtaken {CLAIM_ATTEMPTS_MAX} times")
