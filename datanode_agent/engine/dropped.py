"""What a dropped region leaves behind: its SSTs and old manifests go, a grace period after the tombstone.

A marker `drops/{region}` is put before the drop is confirmed and goes last, so whoever finds it can finish the work: at
first the node that dropped the region, much later any other. The tombstone and the version before it stay for ever: a
late owner must meet them.
"""

import structlog

from datanode_agent.engine.context import Context
from datanode_agent.engine.flushing import epoch_of
from datanode_agent.engine.manifests import MANIFESTS_KEPT_MIN, Manifests
from datanode_agent.engine.waiting import while_unavailable
from groundwork.core.errors import AlreadyExists, Damaged, StoreUnavailable
from groundwork.core.manifest import DROPS_FOLDER, drop_marker_key, region_of_drop, sst_folder

log = structlog.get_logger()
ORPHAN_GRACES = 10  # that others wait for the node that dropped the region
LOOK_MS_MIN = 1_000.0


class Dropped:
    """Of one incarnation."""

    def __init__(self, context: Context, manifests: Manifests) -> None:
        self._context = context
        self._manifests = manifests
        self._mine: set[int] = set()
        self._since_ms: dict[int, float] = {}

    async def note(self, region_id: int) -> None:
        """Its tombstone is committed: what it had is to go. Waits for as long as the store is unavailable."""
        context = self._context

        async def create() -> None:
            try:
                await context.store.create(drop_marker_key(region_id), context.node_id.encode())
            except AlreadyExists:
                return

        def note(why: str) -> None:
            log.warning("drop_marker_waits", region_id=region_id, why=why)

        await while_unavailable(context.clock, context.config.retry_ms, context.config.retry_ms_max, create, note)
        self._mine.add(region_id)
        self._since_ms[region_id] = context.clock.now_ms()

    async def run(self) -> None:
        """Until cancelled: clean up what is due."""
        every_ms = max(LOOK_MS_MIN, self._context.config.delete_grace_ms)
        while True:
            await self._context.clock.sleep(every_ms)
            try:
                await self.look()
            except StoreUnavailable as error:
                log.warning("drops_not_cleaned", why=str(error))

    async def look(self) -> None:
        """One round. Raises StoreUnavailable: the next round goes on."""
        now_ms, grace_ms = self._context.clock.now_ms(), self._context.config.delete_grace_ms
        known = [r for key in await self._context.store.list(DROPS_FOLDER) if (r := _region_of(key)) is not None]
        self._since_ms = {region: self._since_ms.get(region, now_ms) for region in known}
        self._mine &= set(known)
        for region_id, since_ms in list(self._since_ms.items()):
            if now_ms - since_ms >= grace_ms * (1 if region_id in self._mine else ORPHAN_GRACES):
                await self._clean(region_id)

    async def _clean(self, region_id: int) -> None:
        try:
            newest = await self._manifests.newest(region_id)
        except Damaged as error:
            log.exception("drop_not_cleaned", region_id=region_id, why=str(error))
            return
        if newest is None or not newest.tombstone:
            log.error("drop_without_tombstone", region_id=region_id, means="nothing of it is deleted")
            return
        ssts = [key for key in await self._context.store.list(sst_folder(region_id)) if epoch_of(key) < newest.epoch]
        if ssts:
            await self._context.store.delete(ssts)
        manifests = await self._manifests.clean(region_id, newest.version, MANIFESTS_KEPT_MIN)
        await self._context.store.delete([drop_marker_key(region_id)])
        del self._since_ms[region_id]
        log.info("drop_cleaned", region_id=region_id, ssts=len(ssts), manifests=manifests)


def _region_of(key: str) -> int | None:
    """The region that a marker names; None, and a line, for what is no marker: a file that a person left there."""
    try:
        return region_of_drop(key)
    except ValueError:
        log.warning("drop_marker_not_ours", key=key)
        return None
