"""The memory budget: what memtables, rows in flight and rows tailed may take before writes are put off."""

ENTRY_OVERHEAD_BYTES = 512  # what an entry takes beside its payload


class MemoryBudget:
    """Counts bytes against a limit. Writes are admitted whole; flushing gives back."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.tailed_bytes = 0  # of those; no flush frees them
        self._freed_per_ms = 10_000.0  # until measured
        self._refused = False  # since room was made the last time

    def admits(self, size: int) -> bool:
        """Whether a write of this size fits. One that fits an empty budget alone is always let in then."""
        admitted = self.used_bytes == 0 or self.used_bytes + size <= self.limit_bytes
        self._refused = self._refused or not admitted
        return admitted

    def take(self, size: int) -> None:
        """Count bytes in. Replay counts in too, past the limit if it must: what was acknowledged is never refused."""
        self.used_bytes += size

    def give(self, size: int) -> None:
        """Count bytes out."""
        self.used_bytes -= size

    def tail(self, size: int) -> None:
        """Count in what a migration's target reads while the owner still serves."""
        self.take(size)
        self.tailed_bytes += size

    def end_tail(self, size: int) -> None:
        """Count it out: it was given up, or counts as the region's own by now."""
        self.give(size)
        self.tailed_bytes -= size

    def gave_up(self) -> None:
        """A tail was given up: what was refused may fit now."""
        self._refused = False

    @property
    def crowded(self) -> bool:
        """Whether a tail has to be given up.

        What it holds cannot be flushed, and a move can be made later: so it gives way to all else, and to a write that
        was refused where a flush would free less than the tails hold.
        """
        return self.used_bytes > self.limit_bytes or (self._refused and 2 * self.tailed_bytes > self.used_bytes)

    def flushed(self, size: int, took_ms: float) -> None:
        """A flush freed so much in so long: what retry hints are made of."""
        self._refused = False
        self._freed_per_ms = 0.7 * self._freed_per_ms + 0.3 * (size / max(took_ms, 1.0))

    def retry_after_ms(self, size: int) -> int:
        """When a write of this size is likely to fit: 10 ms to 5 s."""
        over = self.used_bytes + size - self.limit_bytes
        return int(min(5_000.0, max(10.0, over / max(self._freed_per_ms, 1.0))))

    @property
    def pressed(self) -> bool:
        """More than three quarters are used, or a write did not fit: flush the largest memtables now.

        Not for three quarters that are mostly tailed: many small files would free next to nothing.
        """
        own_bytes = self.used_bytes - self.tailed_bytes
        full = self.used_bytes * 4 > self.limit_bytes * 3 and own_bytes * 4 > self.limit_bytes
        return full or (self._refused and own_bytes > 0)
