"""The memory budget: what memtables and rows in flight may take before writes are put off."""


class MemoryBudget:
    """Counts bytes against a limit. Writes are admitted whole; flushing gives back."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._freed_per_ms = 10_000.0  # until measured
        self._refused = False  # since the last flush

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
        """More than three quarters are used, or a write did not fit: flush the largest memtables now."""
        return self.used_bytes * 4 > self.limit_bytes * 3 or (self._refused and self.used_bytes > 0)
