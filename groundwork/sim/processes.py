"""Several processes on one virtual clock and one thread: each may crash, be paused, and its effects can be counted.

A process is a context (contextvars): whatever is scheduled from within it carries that context, so the loop knows whose
callback it is about to run. The callbacks of a paused process are kept back until it goes on; those of a crashed one
never run again. Futures and tasks are numbered, so that a set of them has the same order in every run.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from groundwork.sim.clock import NothingLeftToDo, SimClock

T = TypeVar("T")
STEPS_AT_ONE_INSTANT_MAX = 200_000
TASKS_KEPT = 200  # done ones, of one process
RUNNING, PAUSED, DEAD = "running", "paused", "dead"


class Crashed(BaseException):
    """The process is gone, here and now. Not an Exception: nothing in the program may catch it."""


class _Numbered:
    """Hashes by a number of the loop's own count, not by address."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimFuture(_Numbered, asyncio.Future):  # type: ignore[type-arg]  # generic in annotations only
    """A numbered future."""


class SimTask(_Numbered, asyncio.Task):  # type: ignore[type-arg]  # generic in annotations only
    """A numbered task."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "SimTask":
        """Numbered before its constructor puts it into a set."""
        task = super().__new__(cls)
        loop = kwargs["loop"]
        loop.counted += 1
        task.number = loop.counted
        return task


class SimHandle:
    """What asyncio.Handle and asyncio.TimerHandle are, and nothing else: half of a run's time goes through them."""

    __slots__ = ("__weakref__", "_when", "args", "callback", "context", "done")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None, when: float
    ) -> None:
        self.callback, self.args, self._when = callback, args, when
        self.context = context if context is not None else contextvars.copy_context()
        self.done = False

    def cancel(self) -> None:
        """See asyncio.Handle."""
        self.done = True
        self.callback, self.args = _nothing, ()

    def cancelled(self) -> bool:
        """See asyncio.Handle."""
        return self.done

    def when(self) -> float:
        """See asyncio.TimerHandle."""
        return self._when


def _nothing() -> None:
    pass


class SimProcess:
    """One process. Run things in it with spawn(); `crash_after` effects it crashes by itself."""

    def __init__(self, loop: "ClusterLoop", name: str, clock: SimClock) -> None:
        self.name = name
        self.clock = clock
        self.state = RUNNING
        self.crash_after: int | None = None
        self.on_crash: list[Callable[[], None]] = []
        self.on_resume: list[Callable[[], None]] = []
        self.withheld: deque[SimHandle] = deque()
        self.context = contextvars.copy_context()
        self.context.run(_process.set, self)
        self._loop = loop
        self._tasks: list[asyncio.Task[Any]] = []
        self._tasks_max = TASKS_KEPT
        self._reaped = False
        loop.processes.append(self)

    @property
    def alive(self) -> bool:
        """Whether it has not crashed. A paused process is alive."""
        return self.state != DEAD

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in its context, now."""
        return self.context.run(function, *args)

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> "asyncio.Task[T]":
        """Start a task in it."""
        return self._loop.create_task(work, name=name or self.name, context=self.context.copy())

    def effect(self) -> None:
        """Something is about to leave it for a disk, a store or the network. Raises Crashed when that is its end."""
        if self.state == DEAD:
            raise Crashed(self.name)
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash()
                raise Crashed(self.name)

    def crash(self) -> None:
        """Nothing of it runs any more."""
        if self.state == DEAD or self._reaped:
            return
        self.state = DEAD
        self._loop.gated = True
        for callback in self.on_crash:
            callback()

    def pause(self) -> None:
        """Stop it where it is (SIGSTOP)."""
        if self.state == RUNNING:
            self.state = PAUSED
            self._loop.gated = True

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        if self.state == PAUSED:
            self.state = RUNNING
            for callback in self.on_resume:
                callback()
            self._loop.release(self)

    def withhold(self, function: Callable[..., object], *args: Any) -> None:
        """It is paused in the middle of a callback: what that does from here on happens once it goes on."""
        self.withheld.append(SimHandle(function, args, self.context, 0.0))

    def holds(self, task: "asyncio.Task[Any]") -> None:
        """Keep a task from the garbage collector, which would run its cleanup at a moment of its own."""
        self._tasks.append(task)
        if len(self._tasks) > self._tasks_max:
            self._tasks = [t for t in self._tasks if not t.done()]
            self._tasks_max = 2 * len(self._tasks) + TASKS_KEPT

    def reap(self) -> None:
        """After the run: let what is left of it come to its end."""
        self.state = RUNNING
        self._reaped = True
        self.crash_after = None
        self._loop.release(self)
        for task in self._tasks:
            task.cancel()


_process: contextvars.ContextVar[SimProcess | None] = contextvars.ContextVar("process", default=None)


def current_process() -> SimProcess | None:
    """The process whose code runs now; None for the simulator's own."""
    return _process.get()


class ClusterLoop(asyncio.BaseEventLoop):
    """Runs the callbacks of all processes in one order, on virtual time. No file descriptors, no threads."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0
        self.steps = 0
        self.gated = False  # some process is paused or dead
        self.processes: list[SimProcess] = []
        self._now_s = 0.0
        self._due: deque[SimHandle] = deque()
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._timed = 0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        """In the next turn."""
        handle = SimHandle(callback, args, context, self._now_s)
        self._due.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        """When it is that late; what is due at the same time runs in the order in which it was asked for."""
        handle = SimHandle(callback, args, context, when)
        self._timed += 1
        heapq.heappush(self._timers, (when, self._timed, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        """After so many virtual seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def close(self) -> None:
        """See asyncio; whatever still waits is forgotten."""
        self._due.clear()
        self._timers.clear()
        super().close()

    def create_future(self) -> "asyncio.Future[Any]":
        """A numbered one."""
        future = SimFuture(loop=self)
        self.counted += 1
        future.number = self.counted
        return future

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        task = SimTask(work, loop=loop, context=context)
        process = context.get(_process) if context is not None else _process.get()
        if process is not None:
            process.holds(task)
        return task

    def release(self, process: SimProcess) -> None:
        """Its callbacks that were kept back are due now."""
        self._due.extend(process.withheld)
        process.withheld.clear()
        self.gated = any(p.state != RUNNING for p in self.processes)

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """Simulated processes get no signals."""

    def remove_signal_handler(self, sig: int) -> bool:
        """See add_signal_handler."""
        return False

    def _write_to_self(self) -> None:
        """Nothing waits on a file descriptor."""

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _run_once(self) -> None:
        """Runs until the loop is stopped, not one round only: what a round costs besides its callbacks adds up."""
        due, timers = self._due, self._timers
        while not self._stopping:  # type: ignore[attr-defined]
            if not due:
                self._advance()
            while timers and timers[0][0] <= self._now_s:
                handle = heapq.heappop(timers)[2]
                if not handle.done:
                    due.append(handle)
            self.steps += len(due)
            if self.steps > STEPS_AT_ONE_INSTANT_MAX:
                self.steps = 0
                busy = ", ".join(repr(h.callback)[:300] for h in list(due)[:3])
                raise NothingLeftToDo(f"virtual time stands still at {self._now_s:.6f} s; running: {busy}")
            for _ in range(len(due)):
                handle = due.popleft()
                if handle.done or (self.gated and self._keeps_back(handle)):
                    continue
                try:
                    handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001  as asyncio does: the run's exception handler judges it
                    told = {"message": f"Exception in callback {handle.callback}", "exception": error}
                    self.call_exception_handler(told)

    def _advance(self) -> None:
        """Nothing is due: jump to the next timer."""
        timers = self._timers
        while timers and timers[0][2].done:
            heapq.heappop(timers)
        if not timers:
            raise NothingLeftToDo("every task waits, and no timer is set: a deadlock")
        if timers[0][0] > self._now_s:
            self._now_s = timers[0][0]
            self.steps = 0

    def _keeps_back(self, handle: SimHandle) -> bool:
        """Whether its process is paused or dead."""
        process = handle.context.get(_process)
        if process is None or process.state == RUNNING:
            return False
        process.withheld.append(handle)
        return True
