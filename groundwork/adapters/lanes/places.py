"""Where the parts of a lane are in an object store, and the two steps that everything on a lane is made of.

lanes/{lane}/{seq:020d}           OPEN at 0, data, SEAL
lanes/{lane}/trim/{below:020d}    trim markers: the highest counts, so the trim point only grows
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import structlog

from groundwork.adapters.lanes.format import NONCE_BYTES, LaneObject, decode_object
from groundwork.core.errors import AlreadyExists, NotFound, StoreUnavailable
from groundwork.core.ids import Lane
from groundwork.core.ports import Clock, ObjectStore, Workers

log = structlog.get_logger()
T = TypeVar("T")
BACKOFF_MS, BACKOFF_MS_MAX = 20.0, 1_000.0
_ON_WORKERS_BYTES = 128 << 10


class Limits(NamedTuple):
    """Bounds of a lane in object storage."""

    window: int = 4  # puts in flight; never above WINDOW_MAX
    object_bytes: int = 4 << 20  # a group commit; a single larger entry makes an object of its own
    queue_bytes: int = 64 << 20  # waiting and in flight
    append_ms: float = 10_000.0  # an appender waits no longer
    settle_ms: float = 30_000.0  # open, seal and trim try no longer
    read_ahead: int = 8  # gets in flight


# Part of the format: a sealer looks for a SEAL among so many of the last objects, so no writer may be further ahead
# of what it acknowledged.
WINDOW_MAX = 8


class Places:
    """One store with its clock, workers and source of nonces."""

    def __init__(
        self, store: ObjectStore, clock: Clock, workers: Workers, limits: Limits, nonce: Callable[[], bytes] | None
    ) -> None:
        self.store = store
        self.clock = clock
        self.workers = workers
        self.limits = limits
        self.nonce = nonce or (lambda: secrets.token_bytes(NONCE_BYTES))

    @staticmethod
    def folder(lane: Lane) -> str:
        """Where a lane is."""
        return f"lanes/{lane}/"

    @staticmethod
    def key(lane: Lane, seq: int) -> str:
        """The object at one place of a lane."""
        return f"lanes/{lane}/{seq:020d}"

    async def marker(self, lane: Lane) -> int:
        """The trim point: the first seq kept, 0 where nothing was ever trimmed."""
        names = await self.store.list(f"lanes/{lane}/trim/")
        return max((int(name.rpartition("/")[2]) for name in names), default=0)

    async def seqs(self, lane: Lane, start: int) -> list[int]:
        """The seqs that exist at or above `start`, in order."""
        after = self.key(lane, start - 1) if start else ""
        names = await self.store.list(self.folder(lane), after)
        at = len(self.folder(lane))
        return [int(name[at:]) for name in names if name[at:].isdecimal()]

    async def fetch(self, lane: Lane, seq: int) -> LaneObject | None:
        """The object at a place, decoded; None where there is none."""
        try:
            raw = await self.store.get(self.key(lane, seq))
        except NotFound:
            return None
        return await self.heavy(len(raw), lambda: decode_object(raw, lane, seq))

    async def fetch_run(self, lane: Lane, seq: int, count: int) -> list[LaneObject | None]:
        """The objects at `count` places from `seq` on, as fetch() would find them."""
        raws = await self.store.get_many([self.key(lane, at) for at in range(seq, seq + count)])
        size = sum(len(raw) for raw in raws if raw is not None)

        def decode() -> list[LaneObject | None]:
            return [None if raw is None else decode_object(raw, lane, at) for at, raw in enumerate(raws, seq)]

        return await self.heavy(size, decode)

    async def heavy(self, size: int, work: Callable[[], T]) -> T:
        """Run work that takes long for many bytes on a worker."""
        return await self.workers.run(work) if size > _ON_WORKERS_BYTES else work()

    async def settle(self, key: str, body: bytes, until_ms: float = float("inf")) -> bytes | None:
        """Put-if-absent until its outcome is known: None when `body` is there now, else what is there instead.

        A put whose outcome is not known is repeated with the same body under the same name: a name tried with one
        body must never be tried with another. Raises StoreUnavailable when `until_ms` has passed.
        """
        backoff_ms = BACKOFF_MS
        while True:
            try:
                return await self._try(key, body)
            except (NotFound, StoreUnavailable) as error:
                # NotFound: it was there and was trimmed since, or two creates met and the store let neither win.
                if self.clock.now_ms() >= until_ms:
                    raise StoreUnavailable(f"the outcome of {key} is not known: {error}") from error
                log.warning("lane_put_retried", key=key, reason=str(error), backoff_ms=backoff_ms)
            await self.clock.sleep(backoff_ms)
            backoff_ms = min(backoff_ms * 2, BACKOFF_MS_MAX)

    async def _try(self, key: str, body: bytes) -> bytes | None:
        try:
            await self.store.create(key, body)
        except AlreadyExists:
            found = await self.store.get(key)
            return None if found == body else found
        else:
            return None

    async def patiently(self, call: Callable[[], Awaitable[T]], until_ms: float) -> T:
        """Repeat a read that meets a passing fault. Raises StoreUnavailable when `until_ms` has passed."""
        backoff_ms = BACKOFF_MS
        while True:
            try:
                return await call()
            except StoreUnavailable:
                if self.clock.now_ms() >= until_ms:
                    raise
            await self.clock.sleep(backoff_ms)
            backoff_ms = min(backoff_ms * 2, BACKOFF_MS_MAX)

    def deadline_ms(self) -> float:
        """When an open, seal or trim that begins now gives up."""
        return self.clock.now_ms() + self.limits.settle_ms


async def gather(*calls: Awaitable[T]) -> list[T]:
    """All of them at once."""
    return list(await asyncio.gather(*calls))
