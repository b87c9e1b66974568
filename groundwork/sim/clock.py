"""Virtual time: an event loop that jumps to the next timer instead of waiting for it.

`run_sim(main())` runs like asyncio.run, in no real time: asyncio.sleep, timeouts and call_later all count on the loop's
own clock. A loop that waits with no timer left would wait for ever; that is an error here, and says so. For that
reason nothing may come from threads: use InlineWorkers.
"""

import asyncio
import contextvars
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


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)


class _Sleeper:
    """Who sleeps by a clock, and the timer that wakes it at the speed that the clock has now."""

    __slots__ = ("_context", "_timer", "_woken", "until_ms")

    def __init__(self, woken: "asyncio.Future[None]", until_ms: float, delay_s: float) -> None:
        self.until_ms = until_ms
        self._woken = woken
        self._context = contextvars.copy_context()  # its process
        self._timer = woken.get_loop().call_later(delay_s, _wake, woken, context=self._context)

    def wakes_in(self, delay_s: float) -> None:
        """The clock runs at another speed now."""
        self._timer.cancel()
        self._timer = self._woken.get_loop().call_later(max(0.0, delay_s), _wake, self._woken, context=self._context)

    def end(self) -> None:
        """It is awake, or cancelled."""
        self._timer.cancel()


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
        self._sleepers: dict[_Sleeper, None] = {}  # in the order in which they fell asleep

    def now_ms(self) -> float:
        """Milliseconds of this node's clock."""
        return self._now_s() * 1000 * self._rate + self._offset_ms

    def wall_ms(self) -> int:
        """Wall time of this node, which may be anything."""
        return int(self.now_ms()) + self._wall_offset_ms

    async def sleep(self, ms: float) -> None:
        """Sleep so long by this node's clock, also where that changes its speed meanwhile."""
        if ms <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sleeper = _Sleeper(woken, self.now_ms() + ms, ms / 1000 / self._rate)
        self._sleepers[sleeper] = None
        try:
            await woken
        finally:
            sleeper.end()
            del self._sleepers[sleeper]

    def set_wall(self, offset_ms: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_offset_ms = offset_ms

    @property
    def rate(self) -> float:
        """How fast it runs."""
        return self._rate

    def set_rate(self, rate: float) -> None:
        """From now on it runs at another speed, also for who sleeps by it already; it does not jump."""
        self._offset_ms += self._now_s() * 1000 * (self._rate - rate)
        self._rate = rate
        now_ms = self.now_ms()
        for sleeper in self._sleepers:
            sleeper.wakes_in((sleeper.until_ms - now_ms) / 1000 / rate)

    def jump(self, ms: float) -> None:
        """Move the clock forward."""
        self._offset_ms += ms
