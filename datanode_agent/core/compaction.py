"""Which SSTs to merge: files of like size, oldest first, so that a region keeps a bounded number of files.

Tiers grow by four. A tier with more than `files_max` files is merged into one of a higher tier; rows carry their
order (epoch, sequence), so any files may be merged, whether or not their times overlap.
"""

from collections.abc import Sequence

from groundwork.core.manifest import Sst

TIER_FACTOR = 4
TIER_LOWEST_BYTES = 1 << 20


def tier_of(size: int) -> int:
    """The tier of a file: 0 up to 1 MiB, and one more for each factor of four."""
    tier, limit = 0, TIER_LOWEST_BYTES
    while size > limit:
        tier, limit = tier + 1, limit * TIER_FACTOR
    return tier


def choose(files: Sequence[Sst], files_max: int, file_bytes_max: int) -> list[Sst]:
    """The files to merge into one now; empty where none are due."""
    tiers: dict[int, list[Sst]] = {}
    for file in files:
        if file.bytes < file_bytes_max:
            tiers.setdefault(tier_of(file.bytes), []).append(file)
    for _, members in sorted(tiers.items()):
        if len(members) > files_max:
            chosen: list[Sst] = []
            size = 0
            for file in sorted(members, key=lambda f: f.max_order):
                if chosen and size + file.bytes > file_bytes_max:
                    break
                chosen.append(file)
                size += file.bytes
            if len(chosen) > 1:
                return chosen
    return []
