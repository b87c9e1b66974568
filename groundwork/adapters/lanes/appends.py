"""What every writer of a lane does with its callers: queue, group commit, deadlines, answers."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from groundwork.core.errors import LaneError, StoreUnavailable
from groundwork.core.ids import Lane
from groundwork.core.ports import Clock


@dataclass(slots=True)
class Batch:
    """The entries of one group commit, and who waits for them."""

    entries: list[bytes] = field(default_factory=list)
    answers: list["asyncio.Future[int]"] = field(default_factory=list)
    size: int = 0


class Appends:
    """The appends of one writer. `ready` is called at the end of a turn of the loop in which some came.

    `bytes_max` bounds what waits and is in flight, `append_ms` how long a caller waits.
    """

    def __init__(self, lane: Lane, clock: Clock, ready: Callable[[], None], bytes_max: int, append_ms: float) -> None:
        self.failure: LaneError | StoreUnavailable | None = None
        self._lane = lane
        self._clock = clock
        self._ready = ready
        self._bytes_max = bytes_max
        self._append_ms = append_ms
        self._queue: deque[tuple[bytes, asyncio.Future[int]]] = deque()
        self._ages: deque[tuple[float, asyncio.Future[int]]] = deque()  # oldest first
        self._bytes = 0
        self._closing = False
        self._scheduled = False
        self._came = asyncio.Event()
        self._watch = asyncio.get_running_loop().create_task(self._watch_deadlines())

    def __bool__(self) -> bool:
        return bool(self._queue)

    async def append(self, entry: bytes) -> int:
        """Queue one entry and wait for its position. Raises Sealed, Damaged, StoreUnavailable."""
        if self.failure:
            raise type(self.failure)(str(self.failure))
        if self._closing:
            raise StoreUnavailable(f"the writer of lane {self._lane} is closed; nothing was written")
        if self._bytes + len(entry) > self._bytes_max:
            raise StoreUnavailable(
                f"{self._bytes} bytes wait for the store in lane {self._lane}, which is the limit; nothing was written"
            )
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._bytes += len(entry)
        self._queue.append((entry, answer))
        self._ages.append((self._clock.now_ms(), answer))
        self._came.set()
        self.schedule()
        return await answer

    def schedule(self) -> None:
        """Call `ready` at the end of this turn of the loop, so that the appends of one turn go together."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._call_ready)

    def _call_ready(self) -> None:
        self._scheduled = False
        if self._queue and not self.failure:
            self._ready()

    def take(self, bytes_max: int) -> Batch:
        """The next group: at least one entry, where any caller still waits."""
        batch = Batch()
        while self._queue:
            size = len(self._queue[0][0])
            if batch.entries and batch.size + size > bytes_max:
                break
            entry, answer = self._queue.popleft()
            if answer.done():  # its caller gave up before it was ever sent
                self._bytes -= size
                continue
            batch.entries.append(entry)
            batch.answers.append(answer)
            batch.size += size
        return batch

    def durable(self, batch: Batch, position: int) -> None:
        """Answer the callers of a group."""
        self._bytes -= batch.size
        for answer in batch.answers:
            if not answer.done():
                answer.set_result(position)
        if self._queue:
            self.schedule()

    def refuse(self, batch: Batch, error: StoreUnavailable) -> None:
        """Answer the callers of a group that is not durable; the writer goes on."""
        self._bytes -= batch.size
        for answer in batch.answers:
            if not answer.done():
                answer.set_exception(StoreUnavailable(str(error)))

    def fail(self, error: LaneError | StoreUnavailable) -> None:
        """Answer everyone, now and from now on."""
        self.failure = self.failure or error
        for _, answer in self._ages:
            if not answer.done():
                answer.set_exception(type(error)(str(error)))
        self._ages.clear()
        self._queue.clear()

    async def drain(self, puts: "set[asyncio.Task[None]]", admitted: bool) -> None:
        """Take no more, wait for what is in flight no longer than an append may take, then answer the rest."""
        self._closing = True
        if not admitted:
            self.fail(StoreUnavailable(f"the writer of lane {self._lane} closed before its grant came"))
        timer = asyncio.get_running_loop().create_task(self._clock.sleep(self._append_ms))
        try:
            while (self._queue or puts) and not self.failure and not timer.done():
                if puts:
                    await asyncio.wait([timer, *puts], return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(0)  # a launch may be scheduled for this turn
                    if not puts:
                        break  # none was, so nothing will be sent any more: waiting on would only burn the processor
        except asyncio.CancelledError:
            self.fail(self._closed())  # nobody else would answer: what looks at the deadlines ends here, too
            raise
        finally:  # also when whoever closes it has no more time: a put that goes on for ever is nobody's
            tasks = [timer, self._watch, *puts]
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.fail(self._closed())

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"the writer of lane {self._lane} closed; the outcome is not known")

    async def _watch_deadlines(self) -> None:
        """Answer the appends that waited too long. What was sent is repeated all the same, and reaches the sink."""
        while True:
            while self._ages and self._ages[0][1].done():
                self._ages.popleft()
            if not self._ages:
                self._came.clear()
                await self._came.wait()
                continue
            since_ms, answer = self._ages[0]
            wait_ms = since_ms + self._append_ms - self._clock.now_ms()
            if wait_ms > 0:
                # Not until the very deadline: what is answered meanwhile leaves this queue.
                await self._clock.sleep(min(wait_ms, self._append_ms / 10))
                continue
            answer.set_exception(
                StoreUnavailable(
                    f"lane {self._lane} took over {self._append_ms:.0f} ms for an append; it may still become durable"
                )
            )
