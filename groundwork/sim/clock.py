"""Virtual time: an event loop that jumps to the next timer instead of waiting for it.

`run_sim(main())` runs like asyncio.run, in no real time: asyncio.sleep, timeouts and call_later all count on the loop's
own clock. A loop that waits with no timer left would wait for ever; that is an error here, and says so. For that
reason nothing may come from threads: use InlineWorkers.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeftToDo(RuntimeError):
    """Every task waits for something that no timer and no other task will bring: a deadlock."""


class _Selector(selectors.SelectSelector):
    """Never waits: it reports what is ready now, and how long the loop wanted to wait becomes virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise NothingLeftToDo("every task waits, and no timer is set: a deadlock")
        if not ready and timeout is not None and timeout > 0:
            self.waited_s += timeout
        return ready


class SimLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.waited_s


def run_sim(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a fresh loop with virtual time."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return runner.run(main)


def _running_loops_s() -> float:
    return asyncio.get_running_loop().time()


class SimClock:
    """The Clock port on the running loop's time, real or virtual. A node's own may be off and may drift.

    `rate` is how fast it runs; `jump` moves it forward, as a suspended machine's would on waking. With a `loop` it does
    not look for the running one, which costs more than all the rest.
    """

    def __init__(
        self,
        offset_ms: float = 0.0,
        rate: float = 1.0,
        wall_offset_ms: int = 0,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._offset_ms = offset_ms
        self._rate = rate
        self._wall_offset_ms = wall_offset_ms
        self._now_s = _running_loops_s if loop is None else loop.time

    def now_ms(self) -> float:
        """Milliseconds of this node's clock."""
        return self._now_s() * 1000 * self._rate + self._offset_ms

    def wall_ms(self) -> int:
        """Wall time of this node, which may be anything."""
        return int(self.now_ms()) + self._wall_offset_ms

    async def sleep(self, ms: float) -> None:
        """Sleep so long by this node's clock."""
        await asyncio.sleep(ms / 1000 / self._rate)

    def set_wall(self, offset_ms: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_offset_ms = offset_ms

    @property
    def rate(self) -> float:
        """How fast it runs."""
        return self._rate

    def set_rate(self, rate: float) -> None:
        """From now on it runs at another speed; it does not jump."""
        self._offset_ms += self._now_s() * 1000 * (self._rate - rate)
        self._rate = rate

    def jump(self, ms: float) -> None:
        """Move the clock forward."""
        self._offset_ms += ms
