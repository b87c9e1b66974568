"""The Workers port in place: no threads, so a run is the same every time."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class InlineWorkers:
    """Runs the work on the loop, after one turn of it, so that callers are interleaved as with real threads."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` here."""
        await asyncio.sleep(0)
        return work()
