"""The lanes that this incarnation writes: appends in, and every entry that became durable out to its region.

The sink is called in lane order for whatever became durable, acknowledged or not, so when a memtable is frozen on the
loop it holds all of its region's entries below `end`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from datanode_agent.core.flush_policy import LaneLoad
from datanode_agent.engine.context import Context
from groundwork.core.check import require
from groundwork.core.entry import BadEntry, Entry, Kind, encode, iter_entries
from groundwork.core.errors import LaneError, Sealed, StoreUnavailable
from groundwork.core.ids import Lane
from groundwork.core.ports import LaneWriter

log = structlog.get_logger()
SPAN_BYTES = 256 << 10  # how finely the bytes of a lane are remembered by position
SPANS_MAX = 1 << 16


class Receiver(Protocol):
    """What the sink hands entries to."""

    def receive(self, position: int, entry: Entry) -> None:
        """Take an entry that is durable at this position."""
        ...


class OwnLane:
    """One lane of this incarnation. `end`: every entry below it has been received."""

    def __init__(self, context: Context, lane: Lane, on_sealed: Callable[["OwnLane"], None]) -> None:
        self.lane = lane
        self.index = lane.index
        self.end = 0
        self.sealed = False
        self.receivers: dict[int, Receiver] = {}
        self.last_append_ms = context.clock.now_ms()
        self.appended_bytes = 0
        self.appends_waiting = 0
        self._context = context
        self._on_sealed = on_sealed
        self._writer: LaneWriter | None = None
        self._spans: deque[tuple[int, int]] = deque(maxlen=SPANS_MAX)
        self._canary_running = False

    async def open(self) -> None:
        """Put the OPEN mark. Raises Sealed, StoreUnavailable."""
        writer = await self._context.logs.open_writer(self.lane, self.sink)
        if self.sealed:  # the start came to nothing while this mark was put
            await writer.close()
            raise Sealed(f"lane {self.lane} was given up before it was open")
        self._writer = writer
        self.end = max(self.end, self._writer.next_position)
        self.last_append_ms = self._context.clock.now_ms()

    @property
    def is_open(self) -> bool:
        """Whether its OPEN mark is durable."""
        return self._writer is not None

    def admit(self) -> None:
        """A grant that counts has named it."""
        if self._writer is not None:
            self._writer.admit()

    @property
    def next_position(self) -> int:
        """No entry appended from now on will lie below it."""
        require(self._writer is not None, f"lane {self.lane} is used before it is open")
        assert self._writer is not None
        return self._writer.next_position

    async def append(self, entry: Entry) -> int:
        """Its position, once durable. Raises Sealed, Damaged, StoreUnavailable (the outcome is not known).

        Any LaneError ends the lane for this writer: it never takes an append again.
        """
        if self.sealed or self._writer is None:
            raise Sealed(f"lane {self.lane} is over for this writer")
        began_ms = self._context.clock.now_ms()
        self.appends_waiting += 1
        try:
            position = await self._writer.append(encode(entry, self.lane))
        except LaneError as error:
            self._out(error)
            raise
        finally:
            self.appends_waiting -= 1
        now_ms = self._context.clock.now_ms()
        self.last_append_ms = max(self.last_append_ms, now_ms)
        self._context.metrics.append_ms.observe(now_ms - began_ms)
        return position

    def sink(self, position: int, entries: Sequence[bytes]) -> None:
        """The Sink port: entries that became durable, in lane order."""
        size = 0
        for body in entries:
            size += len(body)
            for entry in iter_entries(body):
                if isinstance(entry, BadEntry):
                    log.error("own_entry_unreadable", lane=str(self.lane), position=position, why=entry.reason)
                    continue
                receiver = self.receivers.get(entry.region)
                if receiver is not None:
                    receiver.receive(position, entry)
        self.end = max(self.end, position + 1)
        self.appended_bytes += size
        if not self._spans or self.appended_bytes - self._spans[-1][1] >= SPAN_BYTES:
            self._spans.append((position, self.appended_bytes))
        self.last_append_ms = self._context.clock.now_ms()

    async def canary(self) -> None:
        """Prove that the lane takes appends; one at a time."""
        if self._canary_running or self.sealed:
            return
        self._canary_running = True
        try:
            await self.append(Entry(Kind.CANARY, 0, 0, 0, 0, 0, b""))
        except (LaneError, StoreUnavailable) as error:
            log.warning("canary_failed", lane=str(self.lane), why=str(error))
        finally:
            self._canary_running = False

    def load(self) -> LaneLoad:
        """For the flush policy."""
        spans = [*self._spans]
        if spans and spans[-1][1] < self.appended_bytes:
            spans.append((self.end, self.appended_bytes))
        return LaneLoad(self.index, self.end, spans)

    def forget_below(self, position: int) -> None:
        """No region needs what lies below: drop what is remembered of it, but for one mark."""
        while len(self._spans) > 1 and self._spans[1][0] < position:
            self._spans.popleft()

    def _out(self, why: LaneError) -> None:
        if not self.sealed:
            self.sealed = True
            log.warning("own_lane_over", lane=str(self.lane), end=self.end, why=str(why))
            self._on_sealed(self)

    def shut(self) -> None:
        """Take no appends any more and hand out nothing more."""
        self.sealed = True
        self.receivers.clear()

    async def close(self) -> None:
        """Wait for what is in flight and stop."""
        if self._writer is not None:
            await self._writer.close()
