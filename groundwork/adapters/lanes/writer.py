"""The writer of a lane in object storage.

Entries that wait are put together into one object; a few puts are in flight at once, and acknowledged as a contiguous
prefix. A put never changes its body: while its outcome is not known it is repeated. What the name holds when it
exists already decides: one's own, done; a SEAL, out for good; anything else, the lane is damaged.
"""

import asyncio

import structlog

from groundwork.adapters.lanes.appends import Appends, Batch
from groundwork.adapters.lanes.format import ObjectKind, decode_object, encode_object
from groundwork.adapters.lanes.places import WINDOW_MAX, Places
from groundwork.core import marks
from groundwork.core.check import require
from groundwork.core.errors import Damaged, LaneError, Sealed
from groundwork.core.ids import Lane
from groundwork.core.ports import Sink

log = structlog.get_logger()


class ObjectsWriter:
    """The LaneWriter port. Made by ObjectsLog.open_writer once the OPEN mark is durable."""

    def __init__(self, places: Places, lane: Lane, sink: Sink) -> None:
        limits = places.limits
        require(0 < limits.window <= WINDOW_MAX, f"a window of 1 to {WINDOW_MAX} puts: sealers rely on it")
        self.lane = lane
        self._places = places
        self._sink = sink
        self._admitted = False
        self._appends = Appends(lane, places.clock, self._launch, limits.queue_bytes, limits.append_ms)
        self._next = 1  # the seq of the next put
        self._durable = 1  # all below are durable and went to the sink
        self._landed: dict[int, Batch] = {}  # durable, but something below is not
        self._puts: set[asyncio.Task[None]] = set()

    @property
    def next_position(self) -> int:
        """No entry appended from now on will lie below; all below were handed to the store."""
        return self._next

    @property
    def durable_position(self) -> int:
        """All below are durable and went to the sink: the end of what a reader of this live lane must find."""
        return self._durable

    def admit(self) -> None:
        """The grant that names this lane has come: puts may begin."""
        self._admitted = True
        self._appends.schedule()

    async def append(self, entry: bytes) -> int:
        """Make one entry durable; its position. Raises Sealed, Damaged, StoreUnavailable.

        Whatever it raises, the entry may be durable: an answer to a client says that the outcome is not known.
        """
        return await self._appends.append(entry)

    async def close(self) -> None:
        """Wait for what is in flight, no longer than an append may take, and stop."""
        await self._appends.drain(self._puts, self._admitted)

    # ---------------------------------------------------------------- puts

    def _launch(self) -> None:
        limits = self._places.limits
        while self._admitted and self._appends and self._next < self._durable + limits.window:
            batch = self._appends.take(limits.object_bytes)
            if not batch.entries:
                return
            seq, self._next = self._next, self._next + 1
            task = asyncio.get_running_loop().create_task(self._put(seq, batch))
            self._puts.add(task)
            task.add_done_callback(self._reap)

    async def _put(self, seq: int, batch: Batch) -> None:
        places, lane = self._places, self.lane
        nonce = places.nonce()
        body = await places.heavy(batch.size, lambda: encode_object(ObjectKind.DATA, lane, seq, nonce, batch.entries))
        found = await places.settle(places.key(lane, seq), body)
        if self._appends.failure:
            return
        if found is None:
            self._landed[seq] = batch
            self._acknowledge()
        elif decode_object(found, lane, seq).kind is ObjectKind.SEAL:
            marks.mark("writer_met_seal")
            self._fail(Sealed(f"lane {lane} is sealed at {seq}: this incarnation is over"))
        else:
            self._fail(
                Damaged(f"object {seq} of lane {lane} is neither this writer's nor a SEAL: stop, and see who writes")
            )

    def _acknowledge(self) -> None:
        while (batch := self._landed.pop(self._durable, None)) is not None:
            position = self._durable
            self._sink(position, batch.entries)
            self._durable += 1
            self._appends.durable(batch, position)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._puts.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LaneError):
            self._fail(error)
        elif error is not None:
            log.error("lane_writer_failed", lane=str(self.lane), exc_info=error)
            self._fail(Damaged(f"the writer of lane {self.lane} failed: {error!r}"))

    def _fail(self, error: LaneError) -> None:
        if self._appends.failure is None:
            log.warning("lane_writer_out", lane=str(self.lane), durable_below=self._durable, reason=str(error))
            self._appends.fail(error)
            for task in self._puts:
                task.cancel()
