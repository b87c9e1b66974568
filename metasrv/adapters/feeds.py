"""What changed since a stream last looked: keys, coalesced and bounded, instead of a queue of messages.

A slow reader costs a set of keys, never a growing queue; beyond the limit it is told to begin with a new snapshot.
The reader computes what it sends from the state as it is then, so it can only be newer than the change it was told of.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from groundwork.core import marks

K = TypeVar("K")
KEYS_MAX = 20_000


class Feed(Generic[K]):
    """The changed keys of one reader."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys: set[K] = set()
        self._keys_max = keys_max
        self._everything = True  # a stream begins with a snapshot
        self._event = asyncio.Event()

    def mark(self, keys: Iterable[K]) -> None:
        """These have changed."""
        if self._everything:
            self._event.set()
            return
        self._keys.update(keys)
        if len(self._keys) > self._keys_max:
            self.mark_everything()
        elif self._keys:
            self._event.set()

    def mark_everything(self) -> None:
        """The reader has to begin again with a snapshot."""
        marks.mark("feed_began_again")
        self._keys.clear()
        self._everything = True
        self._event.set()

    def begin(self, everything: bool) -> None:
        """Set how the stream begins: with a snapshot, or with what changes from now on."""
        self._everything = everything

    async def wait(self, timeout_ms: float) -> None:
        """Until something has changed, or for so long."""
        if self._everything or self._keys:
            return
        self._event.clear()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._event.wait()
        except TimeoutError:
            return  # the caller sends an empty message then, so that the other side knows that the stream lives

    def take(self) -> set[K] | None:
        """The keys changed since the last take; None means everything."""
        keys, self._keys = self._keys, set()
        if self._everything:
            self._everything = False
            return None
        return keys


class Feeds(Generic[K]):
    """All the readers of one kind."""

    def __init__(self) -> None:
        self._feeds: dict[Feed[K], None] = {}  # in the order in which they were opened

    @contextmanager
    def reader(self) -> Iterator[Feed[K]]:
        """A feed while the stream is open."""
        feed: Feed[K] = Feed()
        self._feeds[feed] = None
        try:
            yield feed
        finally:
            del self._feeds[feed]

    def mark(self, keys: Iterable[K]) -> None:
        """These have changed."""
        if not self._feeds:
            return
        found = tuple(keys)
        if not found:
            return
        for feed in self._feeds:
            feed.mark(found)

    def mark_everything(self) -> None:
        """A snapshot replaced the state."""
        for feed in self._feeds:
            feed.mark_everything()

    def __len__(self) -> int:
        return len(self._feeds)
