"""What writers attempted and what was acknowledged: the truth that a drill holds the database against. Pure.

One RegionLedger per region, used by that region's one sender at a time, so that the attempts at a key are ordered:
a new value of a key is attempted only when the outcome of the one before is known; a batch whose outcome is unknown
is sent again as it was, which is the same attempt.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from groundwork.core.check import require


class Row(NamedTuple):
    """One row as it is written: tags path and suffix, time in nanoseconds since 1970, fields size and cpu_ms."""

    path: str
    suffix: str
    time_ns: int
    size: int
    cpu_ms: int | None = None


Key = tuple[str, str, int]
Value = tuple[int, int | None]


def key_of(row: Row) -> Key:
    """What identifies a row: its tags and time."""
    return (row.path, row.suffix, row.time_ns)


def value_of(row: Row) -> Value:
    """What a later write of the same key replaces."""
    return (row.size, row.cpu_ms)


class Attempts:
    """The values attempted for one key, in order, and the last one that was acknowledged (-1: none)."""

    __slots__ = ("acked", "values")

    def __init__(self, value: Value) -> None:
        self.values = [value]
        self.acked = -1

    @property
    def allowed(self) -> list[Value]:
        """What may be read back: the last acknowledged value, or any attempted later."""
        return self.values[max(self.acked, 0) :]


class RegionLedger:
    """The attempts at every key of one region."""

    def __init__(self, region_id: int) -> None:
        self.region_id = region_id
        self.acked_rows = 0
        self._keys: dict[Key, Attempts] = {}

    def attempt(self, rows: Iterable[Row]) -> None:
        """Note, before it is sent for the first time, that these rows will be attempted."""
        for row in rows:
            known = self._keys.get(key_of(row))
            if known is None:
                self._keys[key_of(row)] = Attempts(value_of(row))
            else:
                known.values.append(value_of(row))

    def acknowledge(self, rows: Iterable[Row]) -> None:
        """Note that the rows of the last attempt at these keys are acknowledged."""
        for row in rows:
            known = self._keys.get(key_of(row))
            require(known is not None and known.values[-1] == value_of(row), f"acknowledged, not attempted: {row}")
            if known is not None:
                self.acked_rows += known.acked < 0
                known.acked = len(known.values) - 1

    def attempts(self, key: Key) -> Attempts | None:
        """What is known of a key, None when it was never attempted."""
        return self._keys.get(key)

    def __iter__(self) -> Iterator[tuple[Key, Attempts]]:
        return iter(self._keys.items())

    def __len__(self) -> int:
        return len(self._keys)


class Ledger:
    """The ledgers of all regions of one table."""

    def __init__(self, region_ids: Iterable[int]) -> None:
        self.regions = {region_id: RegionLedger(region_id) for region_id in region_ids}

    @property
    def acked_rows(self) -> int:
        """Rows (keys with a time) that were acknowledged at least once."""
        return sum(region.acked_rows for region in self.regions.values())
