"""The real clock: CLOCK_BOOTTIME goes on through suspend, so a lease does not outlive a sleeping machine's nap."""

import asyncio
import time


def boottime_ms() -> float:
    """Milliseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


def wall_ms() -> int:
    """Milliseconds since 1970. For people only."""
    return time.time_ns() // 1_000_000


class SystemClock:
    """The Clock port on this machine."""

    def now_ms(self) -> float:
        """Milliseconds since boot."""
        return boottime_ms()

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return wall_ms()

    async def sleep(self, ms: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(ms / 1000)
