"""Opening a region, the only way in: read the newest manifest, claim, replay, serve from a stay of one's own.

    manifest -> (seal what is over) -> claim -> replay of every closed stay -> serving

A claim may look again and try again, but stops where a lane is not committed as over, and where it meets an epoch not
below its own. It never seals a lane that metasrv has not ended.
"""

import asyncio
from dataclasses import dataclass

import structlog

from datanode_agent.core.replay import NO_ROWS, Damage, Digest, Found, Row, digest
from datanode_agent.engine.context import Context
from datanode_agent.engine.lanes import OwnLane
from datanode_agent.engine.manifests import Manifests
from datanode_agent.engine.memtable import readable
from datanode_agent.engine.region import Region, lane_of
from datanode_agent.engine.replaying import Replays
from datanode_agent.engine.waiting import while_unavailable
from datanode_agent.engine.warm import Warm
from groundwork.core import marks
from groundwork.core.entry import Entry, Kind
from groundwork.core.errors import Damaged, MetasrvError, Trimmed
from groundwork.core.ids import Lane
from groundwork.core.manifest import Claim, Manifest, NeedSeal, Origin, Stay, StayKey, Stop, claim
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()
CLAIM_ATTEMPTS_MAX = 100


class OpenFailed(MetasrvError):
    """The region cannot be opened under this order. `kind` is that of RegionReport.Failed; `stay` is in its way."""

    def __init__(self, kind: str, message: str, stay: StayKey | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.stay = stay


@dataclass
class Opened:
    """What opening found, beside what is in the region."""

    damage: list[Damage]
    replayed_entries: int
    seal_ms: float
    claim_ms: float
    replay_ms: float


class Opener:
    """Opens regions of one incarnation."""

    def __init__(self, context: Context, manifests: Manifests, replays: Replays) -> None:
        self._context = context
        self._manifests = manifests
        self._replays = replays
        # Apart, so that no region holds a slot while it waits for a pass that waits for another's manifest.
        self._reads = asyncio.Semaphore(context.config.opens_parallel_max)
        self._claims = asyncio.Semaphore(context.config.opens_parallel_max)

    def announce(self, region_id: int, order: nodes_pb2.Order) -> None:
        """This order is about to be carried out: one pass of each lane that it names will serve all such regions."""
        for lane in self._lanes_named(order):
            self._replays.of(lane, region_id).expect(region_id)
        for told in order.over:
            self._replays.of(lane_of(told), region_id).begin_seal()

    async def open(
        self, region: Region, order: nodes_pb2.Order, lane: OwnLane, warm: dict[StayKey, Warm], at_least: int
    ) -> Opened:
        """Claim and replay. Raises OpenFailed, or Damaged where the newest manifest cannot be read."""
        began_ms = self._context.clock.now_ms()
        manifest, seal_ms = await self.claim(region, order, lane, at_least, warm)
        region.lane = lane
        region.stand_on(manifest)
        claimed_ms = self._context.clock.now_ms()
        self._context.metrics.claim_ms.observe(claimed_ms - began_ms)
        rows: list[Row] = []
        damage: list[Damage] = []
        told = NO_ROWS
        for stay in manifest.stays:
            if stay.end is not None:
                found, found_digest = await self._entries(region, stay, warm)
                rows += found.rows
                damage += found.damage
                told += found_digest
        self._check_schemas(region, told.schema_version)
        if order.accept_loss:
            schema = region.schema
            rows, lost = await self._context.workers.run(lambda: readable(rows, schema))
            damage += lost
            told = digest(rows)
        region.sequence = max(manifest.highest[1], told.highest[1])
        region.replayed(rows, told.payload_bytes)
        lane.receivers[region.region_id] = region
        now_ms = self._context.clock.now_ms()
        return Opened(damage, len(rows), seal_ms, claimed_ms - began_ms - seal_ms, now_ms - claimed_ms)

    # ---------------------------------------------------------------- claim

    async def claim(
        self, region: Region, order: nodes_pb2.Order, lane: OwnLane, at_least: int, warm: dict[StayKey, Warm]
    ) -> tuple[Manifest, float]:
        """The committed claim, and how long it waited for seals in ms. Raises OpenFailed."""
        sealed: dict[Lane, int] = {}
        ends: dict[StayKey, int] = {(lane_of(e.lane), e.stay_epoch): e.position for e in order.ends}
        over = {lane_of(told) for told in order.over}
        nonce = f"claim-{self._context.incarnation:x}-{order.epoch:x}"
        origin = await self._origin(region.region_id)
        seal_ms = 0.0
        for _ in range(CLAIM_ATTEMPTS_MAX):
            # What was read while the region prepared will do: were it not the newest any more, the put would tell.
            current, region.prepared = region.prepared, None
            if current is None or not all(s.end is not None or s.key in ends for s in current.stays):
                async with self._reads:
                    current = await self._manifests.newest(region.region_id, at_least)
            at_least = current.version if current else 0
            if current is not None and current.epoch == order.epoch and current.nonce == nonce:
                marks.mark("claim_had_landed")
                return current, seal_ms  # an earlier attempt's put landed, and its reply was lost
            self._say_needs(region, current, ends, over, warm)
            await self._end_own(region, current, ends, over)
            brought = Claim(
                order.epoch, self._context.node_id, nonce, lane.lane, lane.next_position, ends, over, sealed
            )
            following = claim(current, brought, origin)
            if isinstance(following, Stop):
                raise OpenFailed(following.kind, following.reason, following.stay)
            if isinstance(following, NeedSeal):
                began_ms = self._context.clock.now_ms()
                sealed[following.lane] = await self._replays.of(following.lane, region.region_id).seal()
                seal_ms += self._context.clock.now_ms() - began_ms
                continue
            async with self._claims:
                written = await self._manifests.put(following)
                counts = written is not None and await self._manifests.counts(written)
            if written is not None and counts:
                log.info("region_claimed", region_id=region.region_id, epoch=order.epoch, version=written.version)
                return written, seal_ms
            marks.mark("claim_overtaken")
        raise OpenFailed("store_unavailable", f"the claim was overtaken {CLAIM_ATTEMPTS_MAX} times")

    async def _origin(self, region_id: int) -> Origin:
        while True:
            origin = self._context.origin(region_id)
            if origin is not None:
                return origin
            log.warning("table_not_known_yet", region_id=region_id)
            await self._context.tables_changed.wait()

    def _say_needs(
        self, region: Region, current: Manifest | None, ends: dict[StayKey, int], over: set[Lane],
        warm: dict[StayKey, Warm],
    ) -> None:  # fmt: skip
        """Tell the passes of each lane what this region will need, so that they can begin before the claim is done."""
        for stay in current.stays if current else ():
            end = stay.end if stay.end is not None else ends.get(stay.key)
            known = warm.get(stay.key)
            start = known.until if known is not None and known.start <= stay.covered else stay.covered
            replay = self._replays.of(stay.lane, region.region_id)
            if end is not None and end <= start:
                replay.skip(region.region_id)
            elif end is not None or stay.lane in over:
                replay.need(region.region_id, start, end)
        named = {stay.lane for stay in current.stays} if current else set()
        for lane in {*over, *(lane for lane, _ in ends)} - named:
            self._replays.of(lane, region.region_id).skip(region.region_id)

    async def _end_own(
        self, region: Region, current: Manifest | None, ends: dict[StayKey, int], over: set[Lane]
    ) -> None:
        """Close an open stay in a live lane of this very incarnation: nobody else can have written in it.

        A barrier behind its last append tells where: appends become durable as a contiguous prefix.
        """
        for stay in current.stays if current else ():
            mine = (stay.lane.node_id, stay.lane.incarnation) == (self._context.node_id, self._context.incarnation)
            if stay.end is None and mine and stay.key not in ends and stay.lane not in over:
                own = self._context.lanes[stay.lane.index]
                ends[stay.key] = await self._behind(own, region) + 1

    async def _behind(self, own: OwnLane, region: Region) -> int:
        """The position of a barrier in a lane of one's own. Waits for as long as the store is unavailable."""
        barrier = Entry(Kind.BARRIER, region.region_id, region.epoch, 0, 0, 0, b"")
        config = self._context.config

        def note(why: str) -> None:
            log.warning("claim_waits", region_id=region.region_id, lane=str(own.lane), why=why)

        return await while_unavailable(
            self._context.clock, config.retry_ms, config.retry_ms_max, lambda: own.append(barrier), note
        )

    # ---------------------------------------------------------------- replay

    async def _entries(self, region: Region, stay: Stay, warm: dict[StayKey, Warm]) -> tuple[Found, Digest]:
        assert stay.end is not None
        start, rows, damage = stay.covered, list[Row](), list[Damage]()
        known, told = warm.get(stay.key), NO_ROWS
        if known is not None and known.start <= start:
            rows, told = known.between(start, stay.end)
            damage = [d for d in known.damage if start <= d.position < stay.end]
            start = max(start, min(known.until, stay.end))
        try:
            found = await self._replays.of(stay.lane, region.region_id).collect(region.region_id, start, stay.end)
        except Trimmed as error:
            newest = await self._manifests.newest(region.region_id)
            if newest is not None and region.manifest is not None and newest.version != region.manifest.version:
                raise OpenFailed(
                    "fenced", f"another owner claimed it during replay: version {newest.version}"
                ) from error
            raise OpenFailed(
                "trimmed", f"entries that its manifest still needs are gone from lane {stay.lane}: {error}"
            ) from error
        return Found(rows + found.rows, damage + found.damage), told + digest(found.rows)

    def _check_schemas(self, region: Region, newest: int) -> None:
        if newest > region.schema.version:
            raise Damaged(
                f"region {region.region_id} has entries of schema version {newest}, and only {region.schema.version} is"
                " known here: they cannot be read before the table's newer schema is known"
            )

    def _lanes_named(self, order: nodes_pb2.Order) -> set[Lane]:
        return {lane_of(told) for told in order.over} | {lane_of(e.lane) for e in order.ends}
