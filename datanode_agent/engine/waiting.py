"""Waiting on the Clock port, so that a simulator's clock decides, and a wake-up that many may wait for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from groundwork.core.errors import StoreUnavailable
from groundwork.core.ports import Clock

T = TypeVar("T")


class Changed:
    """Something changed: everybody who waits looks again."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Wake all."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        self._future = None

    def future(self) -> "asyncio.Future[None]":
        """Done at the next notify(). For within(); never await it: a task that is cancelled cancels what it awaits."""
        if self._future is None or self._future.done():
            self._future = asyncio.get_running_loop().create_future()
        return self._future

    async def wait(self) -> None:
        """Until the next notify(). Whoever is cancelled here leaves the others waiting."""
        await asyncio.shield(self.future())


def outcome_seen(task: "asyncio.Future[Any]") -> None:
    """For tasks whose result several may ask for, or nobody any more: their failure is not a leak."""
    if not task.cancelled():
        task.exception()


async def within(clock: Clock, awaitable: Awaitable[Any], ms: float) -> bool:
    """Wait for something, at most so long; whether it happened. It is not cancelled when time runs out."""
    if ms <= 0:
        return False
    timer = asyncio.ensure_future(clock.sleep(ms))
    target = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([timer, target], return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return target.done()


async def while_unavailable(
    clock: Clock, first_ms: float, most_ms: float, attempt: Callable[[], Awaitable[T]], note: Callable[[str], None]
) -> T:
    """Try again, ever slower, for as long as the store is unavailable. Cancel it to give up.

    Only for what is safe to repeat: reads, and puts of the very same bytes whose reader knows its own.
    """
    wait_ms = first_ms
    while True:
        try:
            return await attempt()
        except StoreUnavailable as error:
            note(str(error))
        await clock.sleep(wait_ms)
        wait_ms = min(most_ms, wait_ms * 2)
