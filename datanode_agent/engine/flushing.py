"""Flush and compaction: rows of a region become SSTs, by committing exactly the next manifest version.

The manifest's put is the commit point. A crash before it leaves an SST that nobody names; the next owner's clean-up
takes it. Only what one's own committed version removed is deleted, after a grace period for scans elsewhere, and
unreferenced files of an epoch below one's own claim.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import structlog

from datanode_agent.core import compaction
from datanode_agent.core.region_state import State
from datanode_agent.engine.context import Context
from datanode_agent.engine.manifests import Fenced, Manifests
from datanode_agent.engine.memtable import Frozen, Part, stack
from datanode_agent.engine.merge import last_writes
from datanode_agent.engine.region import OWNS, Region
from datanode_agent.engine.sst import read_sst, write_sst
from datanode_agent.engine.waiting import outcome_seen, while_unavailable
from groundwork.core.errors import AlreadyExists, Damaged, MetasrvError
from groundwork.core.manifest import Manifest, Sst, compacted, flushed, sst_folder, sst_key
from groundwork.core.table import Schema

log = structlog.get_logger()
T = TypeVar("T")


class NotOwned(MetasrvError):
    """The region was taken away before the flush began."""


def _build(parts: list[Part], schema: Schema, key: str, epoch: int) -> tuple[bytes, Sst]:
    return write_sst(last_writes(stack(parts, schema), schema), schema, key, epoch, 0)


class Flusher:
    """Of one incarnation. `on_fenced` closes a region that lost its manifest to another owner.

    `on_damaged` makes one read-only whose rows cannot be decoded.
    """

    def __init__(
        self, context: Context, manifests: Manifests, on_fenced: Callable[[Region, str, str], None],
        on_damaged: Callable[[Region, str], None],
    ) -> None:  # fmt: skip
        self._on_damaged = on_damaged
        self._context = context
        self._manifests = manifests
        self._on_fenced = on_fenced
        self._slots = asyncio.Semaphore(context.config.flushes_parallel_max)
        self._running: set[asyncio.Task[Any]] = set()

    async def flush(self, region: Region, reason: str) -> bool:
        """Make everything so far covered; whether there was anything to do.

        Raises Fenced (the region is closed already), Damaged (it is read-only already), NotOwned, StoreUnavailable
        (the rows are kept and stay in the lane).
        """
        return await self._to_its_end(self._flush(region, reason))

    async def close(self) -> None:
        """Give up what runs: its incarnation is over."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Also when the caller gives up: a manifest that was put must become known here, or its owner is fenced."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(outcome_seen)
        return await asyncio.shield(task)

    async def _commit(self, region: Region, manifest: Manifest, following: Manifest) -> Manifest:
        """Raises Fenced, and then the region is closed; NotOwned when it left `manifest` itself meanwhile."""
        try:
            return await self._manifests.commit(following)
        except Fenced as error:
            if region.manifest is not manifest:
                raise NotOwned(f"region {region.region_id} was taken away during its flush: {error}") from error
            self._on_fenced(region, "fenced", str(error))
            raise

    async def _flush(self, region: Region, reason: str) -> bool:
        async with self._slots, region.committing:
            if region.state not in OWNS or region.manifest is None:
                raise NotOwned(f"region {region.region_id} is {region.state}: nothing to flush here")
            began_ms = self._context.clock.now_ms()
            frozen = region.freeze()
            closed = any(s.end is not None for s in region.manifest.stays)
            if not frozen.parts and not closed and frozen.covered <= region.stay.covered:
                region.thaw()
                return False
            epoch, manifest, schema = region.epoch, region.manifest, region.schema
            try:
                added = await self._write(region, frozen, schema, epoch)
                following = flushed(manifest, epoch, self._context.unique(), added, frozen.covered, schema)
                written = await self._commit(region, manifest, following)
            except BaseException as error:
                region.thaw()
                if isinstance(error, Damaged) and region.manifest is manifest:
                    self._on_damaged(region, f"its rows cannot be flushed: {error}")
                raise
            took_ms = self._context.clock.now_ms() - began_ms
            self._context.memory.flushed(frozen.size_bytes, took_ms)
            if region.manifest is manifest:  # else it was taken away meanwhile, and forgotten
                region.flushed(written)
                region.report_covered()
            self._context.metrics.flushes.labels(reason).inc()
            self._context.metrics.flush_ms.observe(took_ms)
            log.info(
                "region_flushed", region_id=region.region_id, reason=reason, bytes=frozen.size_bytes,
                covered=frozen.covered, version=written.version, took_ms=round(took_ms, 1),
            )  # fmt: skip
            return True

    async def _write(self, region: Region, frozen: Frozen, schema: Schema, epoch: int) -> tuple[Sst, ...]:
        if not frozen.parts:
            return ()
        parts, key = list(frozen.parts), sst_key(region.region_id, epoch, self._context.unique())
        body, stats = await self._context.workers.run(lambda: _build(parts, schema, key, epoch))
        await self._create(key, body)
        return (stats,)

    async def widen(self, region: Region) -> None:
        """Commit a newer schema before the first entry in it: the store alone must be able to read the lane.

        Raises Fenced (the region is closed already), NotOwned.
        """
        await self._to_its_end(self._widen(region))

    async def _widen(self, region: Region) -> None:
        async with region.committing:
            manifest = region.manifest
            if manifest is None or region.state not in OWNS or manifest.schema.version >= region.schema.version:
                return
            # Only the schema: closed stays and the covered positions stay as they are.
            following = msgspec.structs.replace(
                manifest, version=manifest.version + 1, epoch=region.epoch, nonce=self._context.unique(),
                schema=region.schema,
            )  # fmt: skip
            written = await self._commit(region, manifest, following)
            if region.manifest is manifest:
                region.stand_on(written)
                log.info("schema_widened", region_id=region.region_id, schema_version=written.schema.version)

    async def _create(self, key: str, body: bytes) -> None:
        context = self._context

        async def create() -> None:
            try:
                await context.store.create(key, body)
            except AlreadyExists:
                return  # the name is this process's own: an earlier attempt landed

        def note(why: str) -> None:
            log.warning("sst_put_waits", key=key, why=why)

        await while_unavailable(context.clock, context.config.retry_ms, context.config.retry_ms_max, create, note)

    # ---------------------------------------------------------------- compaction

    async def compact(self, region: Region) -> bool:
        """Merge small files where too many are; whether anything was merged. Raises Fenced, Damaged."""
        if not self._mergeable(region):
            return False
        async with self._slots:
            chosen = self._mergeable(region)  # it may have left while this waited
            if not chosen:
                return False
            schema, epoch, stay = region.schema, region.epoch, region.stay.key
            keys = {s.key for s in chosen}
            with region.reading(keys):
                bodies = [(s.key, await self._get(s.key)) for s in chosen]
            key = sst_key(region.region_id, epoch, self._context.unique())
            level = max(s.level for s in chosen) + 1
            body, stats = await self._context.workers.run(lambda: _merge(bodies, schema, key, epoch, level))
            await self._create(key, body)
            async with region.committing:
                manifest = region.manifest
                if region.state not in OWNS or manifest is None or not keys <= {s.key for s in manifest.ssts}:
                    return False
                if not region.stays_in(stay):
                    return False  # it left and is back: the clean-up of its new stay may delete what an older one made
                following = compacted(manifest, region.epoch, self._context.unique(), keys, (stats,))
                written = await self._commit(region, manifest, following)
                if region.manifest is manifest:
                    region.stand_on(written)
                region.doomed += [(self._context.clock.now_ms(), name) for name in keys]
        self._context.metrics.compactions.inc()
        log.info("region_compacted", region_id=region.region_id, files=len(chosen), bytes=stats.bytes, level=level)
        return True

    def _mergeable(self, region: Region) -> list[Sst]:
        if region.manifest is None or region.state is not State.SERVING:
            return []
        config = self._context.config
        return compaction.choose(region.manifest.ssts, config.files_max, config.file_bytes_max)

    async def _get(self, key: str) -> bytes:
        def note(why: str) -> None:
            log.warning("sst_read_waits", key=key, why=why)

        config = self._context.config
        return await while_unavailable(
            self._context.clock, config.retry_ms, config.retry_ms_max, lambda: self._context.store.get(key), note
        )

    # ---------------------------------------------------------------- clean-up

    async def clean(self, region: Region) -> None:
        """Delete what may be deleted now. Raises StoreUnavailable: the next round goes on."""
        manifest = region.manifest
        if manifest is None or region.state not in OWNS:
            return
        stay = region.stay
        grace_ms, now_ms = self._context.config.delete_grace_ms, self._context.clock.now_ms()
        due = [d for d in region.doomed if now_ms - d[0] >= grace_ms and not region.readers.get(d[1])]
        if due:
            await self._context.store.delete([key for _, key in due])
            region.doomed = [d for d in region.doomed if d not in due]
        if manifest.version % self._context.config.manifests_kept == 0:
            await self._manifests.clean(region.region_id, manifest.version)
        if not region.stays_in(stay.key) or region.manifest is None:
            return  # taken away meanwhile: what is an orphan is for its next owner to say
        if region.swept_epoch != stay.epoch and now_ms - region.claimed_ms >= grace_ms:
            await self._sweep(region, region.manifest, stay.epoch)

    async def _sweep(self, region: Region, manifest: Manifest, claim_epoch: int) -> None:
        """Once per claim: unreferenced files of an epoch below it. None of them can be named by anybody again."""
        named = {s.key for s in manifest.ssts} | {key for _, key in region.doomed} | set(region.readers)
        folder = sst_folder(region.region_id)
        keys = await self._context.store.list(folder)
        old = [k for k in keys if k not in named and epoch_of(k) < claim_epoch]
        if old:
            await self._context.store.delete(old)
            log.info("orphans_deleted", region_id=region.region_id, files=len(old))
        region.swept_epoch = claim_epoch


def epoch_of(key: str) -> int:
    """The epoch that an SST's name carries."""
    return int(key.rpartition("/")[2].partition("-")[0], 16)


def _merge(bodies: list[tuple[str, bytes]], schema: Schema, key: str, epoch: int, level: int) -> tuple[bytes, Sst]:
    columns = [c.name for c in schema.columns]
    tables = [read_sst(body, schema, columns, name) for name, body in bodies]
    return write_sst(last_writes(pa.concat_tables(tables), schema), schema, key, epoch, level)
