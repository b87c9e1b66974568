"""Manifest versions in the object store: finding the newest, and creating exactly the next.

A put whose outcome is not known is repeated with the very same bytes until it is: the nonce in the body tells one's
own from another's. A version counts only if none above it exists after the put: clean-up never deletes the newest, so
where a name had been freed there is a higher one. A predecessor would prove less: it may itself stand under a name that
had been freed, put there by another late owner.
"""

import structlog

from datanode_agent.engine.context import Context
from datanode_agent.engine.waiting import while_unavailable
from groundwork.core.errors import AlreadyExists, MetasrvError, NotFound
from groundwork.core.manifest import (
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_folder,
    manifest_key,
    version_of,
)

log = structlog.get_logger()
MANIFESTS_KEPT_MIN = 2


class Fenced(MetasrvError):
    """Somebody else made the next version: this owner is out."""


class Manifests:
    """See the module docstring."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def newest(self, region_id: int, at_least: int = 0) -> Manifest | None:
        """The newest version, or None before the first. Waits for as long as the store is unavailable.

        `at_least` is a version known to exist: the listing then begins behind it. Raises Damaged, NewerFormat.
        """
        folder = manifest_folder(region_id)
        context, config = self._context, self._context.config

        async def look() -> Manifest | None:
            while True:
                after = manifest_key(region_id, at_least - 1) if at_least else ""
                keys = await context.store.list(folder, after)
                if not keys:
                    return None
                version = version_of(keys[-1])
                try:
                    body = await context.store.get(keys[-1])
                except NotFound:
                    continue  # clean-up went by: there is a newer one
                return decode_manifest(body, region_id, version)

        def note(why: str) -> None:
            log.warning("manifest_read_waits", region_id=region_id, why=why)

        return await while_unavailable(context.clock, config.retry_ms, config.retry_ms_max, look, note)

    async def put(self, manifest: Manifest) -> Manifest | None:
        """Create this version; what stands there with our nonce (perhaps of an earlier attempt), or None: another's.

        Waits for as long as the store is unavailable.
        """
        context, config = self._context, self._context.config
        key, body = manifest_key(manifest.region, manifest.version), encode_manifest(manifest)

        async def create() -> Manifest | None:
            try:
                await context.store.create(key, body)
            except AlreadyExists:
                try:
                    found = decode_manifest(await context.store.get(key), manifest.region, manifest.version)
                except NotFound:
                    return None  # it was there and is cleaned up already: far behind
                return found if found.nonce == manifest.nonce else None
            return manifest

        def note(why: str) -> None:
            log.warning("manifest_put_waits", region_id=manifest.region, version=manifest.version, why=why)

        return await while_unavailable(context.clock, config.retry_ms, config.retry_ms_max, create, note)

    async def counts(self, manifest: Manifest) -> bool:
        """Whether a version that was just created counts. Waits for as long as the store is unavailable."""
        context, config = self._context, self._context.config
        key = manifest_key(manifest.region, manifest.version)

        async def look() -> bool:
            return not await context.store.list(manifest_folder(manifest.region), key)

        def note(why: str) -> None:
            log.warning("manifest_check_waits", region_id=manifest.region, version=manifest.version, why=why)

        return await while_unavailable(context.clock, config.retry_ms, config.retry_ms_max, look, note)

    async def commit(self, manifest: Manifest) -> Manifest:
        """The owner's next version (flush, compaction). Raises Fenced; never looks for another number to use."""
        written = await self.put(manifest)
        if written is None:
            raise Fenced(
                f"version {manifest.version} of region {manifest.region} was made by another owner: this one, of epoch"
                f" {manifest.epoch}, is out"
            )
        if not await self.counts(written):
            raise Fenced(
                f"there are versions above {manifest.version} of region {manifest.region}: another owner claimed"
                f" it meanwhile, and this one, of epoch {manifest.epoch}, is out"
            )
        return written

    async def clean(self, region_id: int, newest: int, kept: int = 0) -> int:
        """Delete old versions, oldest first and one at a time, never the newest two; how many went."""
        kept = max(MANIFESTS_KEPT_MIN, kept or self._context.config.manifests_kept)
        keys = await self._context.store.list(manifest_folder(region_id))
        old = [key for key in keys if version_of(key) <= newest - kept]
        for key in old:
            await self._context.store.delete([key])
        return len(old)
