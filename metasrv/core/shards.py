"""A map of ints, in many small dicts that a snapshot shares: taking one copies no entry, and stalls nobody.

A shard that a snapshot holds is copied before it is next written (copy on write), some hundred entries at a time.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")
SHARDS = 4096
_MASK = SHARDS - 1


class Shards(Generic[V]):
    """A dict from int to V with cheap frozen copies."""

    def __init__(self) -> None:
        self._shards: list[dict[int, V]] = [{}] * SHARDS  # one for all: the first write to a shard copies it
        self._mine = bytearray(SHARDS)  # 1: held by nobody else
        self._len = 0

    @staticmethod
    def _shard(key: int) -> int:
        return (key ^ (key >> 32) * 31) & _MASK

    def get(self, key: int) -> V | None:
        """The value, or None."""
        return self._shards[(key ^ (key >> 32) * 31) & _MASK].get(key)

    def __getitem__(self, key: int) -> V:
        return self._shards[(key ^ (key >> 32) * 31) & _MASK][key]

    def __contains__(self, key: int) -> bool:
        return key in self._shards[self._shard(key)]

    def __len__(self) -> int:
        return self._len

    def _writable(self, key: int) -> dict[int, V]:
        at = self._shard(key)
        if not self._mine[at]:
            self._shards[at] = self._shards[at].copy()
            self._mine[at] = 1
        return self._shards[at]

    def __setitem__(self, key: int, value: V) -> None:
        shard = self._writable(key)
        before = len(shard)
        shard[key] = value
        self._len += len(shard) - before

    def __delitem__(self, key: int) -> None:
        del self._writable(key)[key]
        self._len -= 1

    def frozen(self) -> list[dict[int, V]]:
        """The shards as they are now; they will not change any more."""
        self._mine = bytearray(SHARDS)
        return list(self._shards)

    def items(self) -> Iterator[tuple[int, V]]:
        """All entries, in no useful order."""
        for shard in filter(None, self._shards):  # most are empty in a small cluster
            yield from shard.items()
