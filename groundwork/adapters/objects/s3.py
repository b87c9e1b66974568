"""Object storage in an S3 bucket, through obstore. Needs conditional writes (`If-None-Match`) and consistent listing.

A create is one request that nobody repeats: a retry inside the client would meet its own first attempt and look like
someone else's object. Reads may be repeated freely.
"""

import asyncio
import errno
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import S3Store

from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.objects.keys import check_key, check_prefix
from groundwork.core.errors import AlreadyExists, BadInput, NotFound, StoreUnavailable

REQUEST_TIMEOUT_MS = 10_000


class ObstoreStore:
    """The ObjectStore port on any store that obstore knows. `reads` may retry by itself, `writes` must not."""

    def __init__(self, reads: Any, writes: Any) -> None:
        self._reads = reads
        self._writes = writes

    async def create(self, key: str, body: bytes) -> None:
        """Put-if-absent. Raises AlreadyExists, StoreUnavailable."""
        check_key(key)
        try:
            await obstore.put_async(self._writes, key, body, mode="create", use_multipart=False)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise AlreadyExists(f"{key} exists") from error
        except (exceptions.BaseError, OSError) as error:
            raise _unavailable("create", key, error) from error

    async def get(self, key: str) -> bytes:
        """The whole body. Raises NotFound, StoreUnavailable."""
        check_key(key)
        try:
            found = await obstore.get_async(self._reads, key)
            return bytes(await found.bytes_async())
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise NotFound(f"{key} does not exist") from error
        except (exceptions.BaseError, OSError) as error:
            raise _unavailable("get", key, error) from error

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The bodies, None where there is none, asked for at once. Raises StoreUnavailable."""
        return await asyncio.gather(*(self._find(key) for key in keys))

    async def _find(self, key: str) -> bytes | None:
        try:
            return await self.get(key)
        except NotFound:
            return None

    async def list(self, prefix: str, start_after: str = "") -> list[str]:
        """The keys under a folder after `start_after`, sorted. Raises StoreUnavailable."""
        check_prefix(prefix)
        try:
            found = await obstore.list(self._reads, prefix or None, offset=start_after or None).collect_async()
        except (exceptions.BaseError, OSError) as error:
            raise _unavailable("list", prefix, error) from error
        return sorted(meta["path"] for meta in found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what is there. Raises StoreUnavailable."""
        for key in keys:
            check_key(key)
        try:
            await obstore.delete_async(self._reads, list(keys))
        except (exceptions.NotFoundError, FileNotFoundError):
            pass  # an absent key is fine; some stores say so
        except (exceptions.BaseError, OSError) as error:
            raise _unavailable("delete", f"{len(keys)} keys", error) from error


def open_s3(config: ObjectStoreConfig) -> ObstoreStore:
    """The store of `[object_store] s3_*`; credentials come from the environment. Raises BadInput."""
    options: dict[str, Any] = {"conditional_put": "etag"}
    if config.s3_endpoint:
        options["endpoint"] = config.s3_endpoint
    if config.s3_region:
        options["region"] = config.s3_region
    client: Any = {
        "timeout": timedelta(milliseconds=REQUEST_TIMEOUT_MS),
        "connect_timeout": timedelta(milliseconds=REQUEST_TIMEOUT_MS // 4),
        "allow_http": config.s3_endpoint.startswith("http://"),
    }

    def store(retries: int) -> Any:
        retry: Any = {"max_retries": retries, "retry_timeout": timedelta(milliseconds=REQUEST_TIMEOUT_MS)}
        return S3Store(
            config.s3_bucket, prefix=config.s3_prefix or None, client_options=client, retry_config=retry, **options
        )

    try:
        return ObstoreStore(reads=store(3), writes=store(0))
    except exceptions.BaseError as error:
        raise BadInput("object_store.s3_bucket", f"cannot use {config.s3_bucket}: {error}") from error


def _unavailable(what: str, key: str, error: Exception) -> StoreUnavailable:
    number = getattr(error, "errno", None)
    text = errno.errorcode.get(number, "") if number else ""
    return StoreUnavailable(f"{what} {key}: {text or str(error).splitlines()[0]}; its outcome is not known")
