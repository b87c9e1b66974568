"""The ports: what the cores ask of the world. Each has one contract suite in tests/contracts, run on every home of it.

Everything here is driven from one event loop. Nothing may assume real time or threads, so that a simulator can take
the place of each.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from groundwork.core.ids import Lane

T = TypeVar("T")


class Clock(Protocol):
    """A clock that only grows and goes on through suspend (CLOCK_BOOTTIME). Wall time is for people only."""

    def now_ms(self) -> float:
        """Milliseconds since an arbitrary point."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970, for people: nothing may be decided by it."""
        ...

    async def sleep(self, ms: float) -> None:
        """Let other work run for so long."""
        ...


class Workers(Protocol):
    """Where blocking or heavy work runs, off the event loop (a simulator runs it in place)."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a worker thread and return what it returns or raises."""
        ...


class ObjectStore(Protocol):
    """Strongly consistent object storage with put-if-absent. Keys are '/'-separated; bodies are whole.

    Implementations never retry a create by themselves: a retry of one's own put that landed would look like someone
    else's. Errors are those of groundwork.core.errors.
    """

    async def create(self, key: str, body: bytes) -> None:
        """Put-if-absent; durable when it returns, and never visible before its bytes are durable.

        Raises AlreadyExists, or StoreUnavailable where the outcome is not known.
        """
        ...

    async def get(self, key: str) -> bytes:
        """The whole body. Raises NotFound, StoreUnavailable."""
        ...

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The bodies of a few objects, None where there is none: for what is read one after another anyway.

        Raises StoreUnavailable.
        """
        ...

    async def list(self, prefix: str, start_after: str = "") -> list[str]:
        """The keys under `prefix` (a folder, with its '/'), sorted, those after `start_after` only."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; an absent key is fine."""
        ...


class Chunk(NamedTuple):
    """What one append of a lane wrote: encoded entries, back to back. `damage` says why `body` is not to be used."""

    position: int
    body: bytes | memoryview
    damage: str | None = None


# Called on the loop, in lane order, for every append that became durable, before the append's own caller resumes.
# So memtables are filled in lane order, acknowledged or not.
Sink = Callable[[int, Sequence[bytes]], None]


class LaneWriter(Protocol):
    """The one writer of a lane. Its OPEN mark is durable when open_writer returns."""

    lane: Lane

    @property
    def next_position(self) -> int:
        """No entry appended from now on will lie below this position; all below it were handed to the store."""
        ...

    def admit(self) -> None:
        """A grant that names this lane, asked for after OPEN was durable, has arrived: appends may be acknowledged."""
        ...

    async def append(self, entry: bytes) -> int:
        """Group-commit one encoded entry with those of other callers; its position, durable, in contiguous prefix.

        Waits for admit(). Raises Sealed (out for good), or StoreUnavailable when the deadline of the store ran out:
        the entry may still become durable, and then reaches the sink in its place.
        """
        ...

    async def close(self) -> None:
        """Wait for what is in flight and stop; the lane is not sealed by it."""
        ...


class LogStore(Protocol):
    """Lanes on a shared medium. Rules: docs/lanes.md."""

    async def open_writer(self, lane: Lane, sink: Sink) -> LaneWriter:
        """Put the OPEN mark. Raises Sealed where the lane is over already."""
        ...

    async def seal(self, lane: Lane) -> int:
        """End the lane for good; its end position. Idempotent, any number of sealers.

        No append is acknowledged at or above the end after this returns. The caller must know that the lane is
        committed as over.
        """
        ...

    def read(self, lane: Lane, start: int, end: int | None) -> AsyncIterator[Chunk]:
        """Chunks in [start, end), in order; with end None up to what is there now, or the SEAL.

        Raises Trimmed when `start` lies below the trim point, and whenever a position that must exist is absent.
        A chunk that fails its checksum is yielded with `damage` set: never skipped silently.
        """
        ...

    async def trim(self, lane: Lane, below: int) -> None:
        """Delete entries below a position. OPEN and SEAL stay. The trim point only grows."""
        ...
