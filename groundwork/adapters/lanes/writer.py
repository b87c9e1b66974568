"""The writer of a lane in object storage.

Entries that wait are put together into one object; a few puts are in flight at once, and acknowledged as a contiguous
prefix. A put never changes its body: while its outcome is not known it is repeated. What the name holds when it
exists already decides: one's own, done; a SEAL, out for good; anything else, the lane is damaged.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import structlog

from groundwork.adapters.lanes.format import ObjectKind, decode_object, encode_object
from groundwork.adapters.lanes.places import WINDOW_MAX, Places
from groundwork.core.check import require
from groundwork.core.errors import Damaged, LaneError, Sealed, StoreUnavailable
from groundwork.core.ids import Lane
from groundwork.core.ports import Sink

log = structlog.get_logger()


@dataclass(slots=True)
class _Waiting:
    entry: bytes
    answer: asyncio.Future[int]


@dataclass(slots=True)
class _Batch:
    entries: list[bytes] = field(default_factory=list)
    answers: list[asyncio.Future[int]] = field(default_factory=list)
    size: int = 0


class ObjectsWriter:
    """The LaneWriter port. Made by ObjectsLog.open_writer once the OPEN mark is durable."""

    def __init__(self, places: Places, lane: Lane, sink: Sink) -> None:
        require(0 < places.limits.window <= WINDOW_MAX, f"a window of 1 to {WINDOW_MAX} puts: sealers rely on it")
        self.lane = lane
        self._places = places
        self._limits = places.limits
        self._sink = sink
        self._admitted = False
        self._closing = False
        self._failure: LaneError | None = None
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0  # waiting and in flight
        self._next = 1  # the seq of the next put
        self._durable = 1  # all below are durable and went to the sink
        self._landed: dict[int, _Batch] = {}  # durable, but something below is not
        self._ages: deque[tuple[float, asyncio.Future[int]]] = deque()  # all appends, oldest first, for their deadlines
        self._puts: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._changed = asyncio.Event()
        self._watch = asyncio.get_running_loop().create_task(self._watch_deadlines())

    @property
    def next_position(self) -> int:
        """No entry appended from now on will lie below; all below were handed to the store."""
        return self._next

    @property
    def durable_position(self) -> int:
        """All below are durable and went to the sink: the end of what a reader of this live lane must find."""
        return self._durable

    @property
    def failure(self) -> LaneError | None:
        """Why this writer is out for good, or None."""
        return self._failure

    def admit(self) -> None:
        """The grant that names this lane has come: puts may begin."""
        self._admitted = True
        self._schedule()

    async def append(self, entry: bytes) -> int:
        """Make one entry durable; its position. Raises Sealed, Damaged, StoreUnavailable.

        Whatever it raises, the entry may be durable: an answer to a client says that the outcome is not known.
        """
        if self._failure:
            raise type(self._failure)(str(self._failure))
        if self._closing:
            raise StoreUnavailable(f"the writer of lane {self.lane} is closed; nothing was written")
        if self._bytes + len(entry) > self._limits.queue_bytes:
            raise StoreUnavailable(
                f"{self._bytes} bytes wait for the store in lane {self.lane}, which is the limit; nothing was written"
            )
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._bytes += len(entry)
        self._queue.append(_Waiting(entry, answer))
        self._ages.append((self._places.clock.now_ms(), answer))
        self._changed.set()
        self._schedule()
        return await answer

    async def close(self) -> None:
        """Wait for what is in flight, no longer than an append may take, and stop."""
        self._closing = True
        if not self._admitted:
            self._give_up(StoreUnavailable(f"the writer of lane {self.lane} closed before its grant came"))
        timer = asyncio.get_running_loop().create_task(self._places.clock.sleep(self._limits.append_ms))
        while (self._queue or self._puts) and not self._failure and not timer.done():
            if self._puts:
                await asyncio.wait([timer, *self._puts], return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)  # a launch is scheduled for this turn
        tasks = [timer, self._watch, *self._puts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_up(StoreUnavailable(f"the writer of lane {self.lane} closed; the outcome is not known"))

    # ---------------------------------------------------------------- group commit

    def _schedule(self) -> None:
        """Launch at the end of this turn of the loop, so that the appends of one turn go together."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._launch)

    def _launch(self) -> None:
        self._scheduled = False
        while self._admitted and self._queue and not self._failure and self._next < self._durable + self._limits.window:
            batch = self._take()
            if not batch.entries:
                return
            seq, self._next = self._next, self._next + 1
            task = asyncio.get_running_loop().create_task(self._put(seq, batch))
            self._puts.add(task)
            task.add_done_callback(self._reap)

    def _take(self) -> _Batch:
        batch = _Batch()
        while self._queue:
            size = len(self._queue[0].entry)
            if batch.entries and batch.size + size > self._limits.object_bytes:
                break
            waiting = self._queue.popleft()
            if waiting.answer.done():  # its caller gave up before it was ever sent
                self._bytes -= size
                continue
            batch.entries.append(waiting.entry)
            batch.answers.append(waiting.answer)
            batch.size += size
        return batch

    async def _put(self, seq: int, batch: _Batch) -> None:
        nonce = self._places.nonce()
        body = await self._places.heavy(
            batch.size, lambda: encode_object(ObjectKind.DATA, self.lane, seq, nonce, batch.entries)
        )
        found = await self._places.settle(self._places.key(self.lane, seq), body)
        if self._failure:
            return
        if found is None:
            self._landed[seq] = batch
            self._acknowledge()
        elif decode_object(found, self.lane, seq).kind is ObjectKind.SEAL:
            self._fail(Sealed(f"lane {self.lane} is sealed at {seq}: this incarnation is over"))
        else:
            self._fail(
                Damaged(
                    f"object {seq} of lane {self.lane} is neither this writer's nor a SEAL: stop, and see who writes"
                )
            )

    def _acknowledge(self) -> None:
        while (batch := self._landed.pop(self._durable, None)) is not None:
            self._sink(self._durable, batch.entries)
            for answer in batch.answers:
                if not answer.done():
                    answer.set_result(self._durable)
            self._bytes -= batch.size
            self._durable += 1
        if self._queue:
            self._schedule()

    # ---------------------------------------------------------------- ends

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._puts.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LaneError):
            self._fail(error)
        elif error is not None:
            log.error("lane_writer_failed", lane=str(self.lane), exc_info=error)
            self._fail(Damaged(f"the writer of lane {self.lane} failed: {error!r}"))

    def _fail(self, error: LaneError) -> None:
        if self._failure is None:
            log.warning("lane_writer_out", lane=str(self.lane), durable_below=self._durable, reason=str(error))
            self._failure = error
            self._give_up(error)
            for task in self._puts:
                task.cancel()

    def _give_up(self, error: LaneError | StoreUnavailable) -> None:
        for _, answer in self._ages:
            if not answer.done():
                answer.set_exception(type(error)(str(error)))
        self._ages.clear()
        self._queue.clear()

    async def _watch_deadlines(self) -> None:
        """Answer the appends that waited too long. What was sent is repeated all the same, and reaches the sink."""
        clock, append_ms = self._places.clock, self._limits.append_ms
        while True:
            while self._ages and self._ages[0][1].done():
                self._ages.popleft()
            if not self._ages:
                self._changed.clear()
                await self._changed.wait()
                continue
            since_ms, answer = self._ages[0]
            wait_ms = since_ms + append_ms - clock.now_ms()
            if wait_ms > 0:
                # Not until the very deadline: what is answered meanwhile leaves this queue.
                await clock.sleep(min(wait_ms, append_ms / 10))
                continue
            answer.set_exception(
                StoreUnavailable(
                    f"lane {self.lane} took over {append_ms:.0f} ms for an append; it may still become durable"
                )
            )
