"""The Workers port on a pool of threads.

Not asyncio's run_in_executor: that takes a lock, a chain of two futures and a wake-up of the loop for every call (15 us
of processor time where this takes 3). Here all that is done by the time the loop wakes up is delivered in one go.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Done(NamedTuple):
    answer: "asyncio.Future[Any]"
    value: Any
    error: BaseException | None


class _Deliveries:
    """What the threads finished for one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[_Done] = deque()
        self._called = False

    def put(self, done: _Done) -> None:
        """From a thread. One call of the loop takes all that is there; the flag is lowered before it looks."""
        self._done.append(done)
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._done.clear()  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        self._called = False
        while self._done:
            answer, value, error = self._done.popleft()
            if answer.done():
                continue  # its caller was cancelled
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)


class _Job(NamedTuple):
    deliveries: _Deliveries
    answer: "asyncio.Future[Any]"
    work: Callable[[], Any]


class ThreadWorkers:
    """At most `threads` threads, started as they are needed. To be used from one loop at a time."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._threads_max = threads
        self._threads: list[threading.Thread] = []
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._deliveries: _Deliveries | None = None
        self._outstanding = 0
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in the pool. Work whose caller is cancelled before a thread took it is not done."""
        if self._closed:
            raise RuntimeError(f"the workers {self._name} are closed")
        loop = asyncio.get_running_loop()
        if self._deliveries is None or self._deliveries.loop is not loop:
            self._deliveries = _Deliveries(loop)
        answer: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(self._deliveries, answer, work))
        self._outstanding += 1
        if len(self._threads) < min(self._outstanding, self._threads_max):
            thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        try:
            return await answer
        finally:
            self._outstanding -= 1

    def close(self, *, wait: bool = True) -> None:
        """Stop, and wait for the work that was given; or not, where it only reads: its threads end with the process."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            deliveries, answer, work = job
            if answer.cancelled():
                continue
            try:
                done = _Done(answer, work(), None)
            except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the caller, who waits for it
                done = _Done(answer, None, error)
            deliveries.put(done)
            del job, deliveries, answer, work, done  # a thread that waits keeps nothing alive
