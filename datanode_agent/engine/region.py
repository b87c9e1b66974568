"""One region on this node: its state, its newest manifest, its rows that no SST has yet."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from datanode_agent.core.memory import ENTRY_OVERHEAD_BYTES
from datanode_agent.core.region_state import Event, OrderView, RegionView, State, follow
from datanode_agent.core.replay import Row
from datanode_agent.engine.context import Context
from datanode_agent.engine.lanes import OwnLane
from datanode_agent.engine.memtable import Frozen, Live, Memtable, Part, Replayed
from datanode_agent.engine.waiting import Changed
from groundwork.core.check import require
from groundwork.core.entry import Entry, Kind
from groundwork.core.ids import Lane
from groundwork.core.manifest import Manifest, Stay, StayKey
from groundwork.core.table import Schema
from protos.metasrv.v1 import nodes_pb2, types_pb2

KINDS = {
    nodes_pb2.OPEN: Event.OPEN,
    nodes_pb2.STOP: Event.STOP,
    nodes_pb2.RESUME: Event.RESUME,
    nodes_pb2.PREPARE: Event.PREPARE,
    nodes_pb2.CLOSE: Event.CLOSE,
    nodes_pb2.DROP: Event.DROP,
}
TAKES_APPENDS = (State.SERVING, State.STOPPING)
OWNS = (State.SERVING, State.STOPPING, State.STOPPED)


def view_of(order: nodes_pb2.Order) -> OrderView:
    """What decides about an order. Its revision does not: the same order may be told again under a later one."""
    content = nodes_pb2.Order()
    content.CopyFrom(order)
    content.revision = 0
    return OrderView(KINDS[order.kind], order.epoch, order.attempt, content.SerializeToString(deterministic=True))


class Snapshot(NamedTuple):
    """What a scan reads: it stays as it is whatever happens to the region."""

    parts: list[Part]
    manifest: Manifest
    schema: Schema


class Region:
    """See the module docstring. Changed on the loop only."""

    def __init__(self, context: Context, region_id: int) -> None:
        self.context = context
        self.region_id = region_id
        self.state = State.CLOSED
        self.epoch = 0
        self.served_epoch = 0  # the last under which it took writes
        self.attempt = 0
        self.order: nodes_pb2.Order | None = None
        self.working_on: nodes_pb2.Order | None = None  # the order that began its present state
        self.failed_on: bytes | None = None
        self.failure: nodes_pb2.RegionReport | None = None  # what was reported when it last failed as an owner
        self.failure_told_ms = 0.0
        self.changed = Changed()
        self.task: asyncio.Task[None] | None = None
        self.lane: OwnLane | None = None
        self.manifest: Manifest | None = None
        self.left: list[Stay] = []  # closed stays of its predecessors that its own flush has covered to their end
        self._stay: Stay | None = None
        self.memtable = Memtable()
        self.frozen: Frozen | None = None
        self.sequence = 0
        self.pending = 0  # appends whose outcome is not known yet
        self.uncertain = False  # an append ended without a known outcome: it may still become durable
        self.last_position = 0  # the highest position at which an entry of this stay was received
        self.committing = asyncio.Lock()
        self.committed_ms = context.clock.now_ms()
        self.readers: dict[str, int] = {}  # SSTs that scans are reading
        self.doomed: list[tuple[float, str]] = []  # SSTs that own committed versions removed: (when, key)
        self.swept_epoch = 0  # the claim whose clean-up of older epochs' files is done
        self.claimed_ms = context.clock.now_ms()
        self.known_version = 0  # a manifest version that exists
        self.prepared: Manifest | None = None  # the newest one when it began to tail its owner's lane
        self._batches: dict[tuple[int, int], pa.RecordBatch] = {}

    # ---------------------------------------------------------------- state

    @property
    def view(self) -> RegionView:
        """What decides about orders."""
        return RegionView(self.state, self.epoch, self.attempt, self.failed_on)

    def step(self, event: Event) -> bool:
        """Follow the table; whether the event meant anything. Everybody who waits looks again."""
        state = follow(self.state, event)
        if state is None:
            return False
        self.state = state
        self.changed.notify()
        return True

    @property
    def stay(self) -> Stay:
        """Its own open stay."""
        require(self._stay is not None, f"region {self.region_id} has no open stay")
        assert self._stay is not None
        return self._stay

    def stays_in(self, key: StayKey) -> bool:
        """Whether that stay is its own open one still."""
        return self._stay is not None and self._stay.key == key

    def stand_on(self, manifest: Manifest) -> None:
        """This version is committed and its own."""
        mine = [s for s in manifest.stays if s.end is None]
        require(len(mine) == 1, f"region {self.region_id} has {len(mine)} open stays, and an owner has exactly one")
        self.manifest, self._stay = manifest, mine[0]
        self.committed_ms = self.context.clock.now_ms()

    @property
    def schema(self) -> Schema:
        """The newest schema that its manifest or its table's orders know."""
        require(self.manifest is not None, f"region {self.region_id} has no manifest")
        assert self.manifest is not None
        table = self.context.tables.get(self.manifest.table)
        if table is not None and table.schema.version > self.manifest.schema.version:
            return table.schema
        return self.manifest.schema

    # ---------------------------------------------------------------- rows

    def expect(self, epoch: int, sequence: int, batch: pa.RecordBatch) -> None:
        """A write is about to be appended: its decoded batch, so that the sink need not decode it again."""
        self._batches[epoch, sequence] = batch

    def unexpect(self, epoch: int, sequence: int) -> None:
        """Its outcome is not known: if it does become durable, it is decoded from the entry."""
        self._batches.pop((epoch, sequence), None)

    def receive(self, position: int, entry: Entry) -> None:
        """An entry of this region became durable in its lane, acknowledged or not."""
        if self._stay is None or self.state not in OWNS or position < self._stay.start:
            return
        self.last_position = max(self.last_position, position)
        if entry.kind != Kind.DATA:
            return
        batch = self._batches.pop((entry.epoch, entry.sequence), None)
        size = len(entry.payload) + ENTRY_OVERHEAD_BYTES
        part: Part
        if batch is not None:
            part = Live(batch, entry.epoch, entry.sequence, entry.schema_version)
        else:
            row = Row(position, entry.epoch, entry.sequence, entry.rows, entry.schema_version, entry.payload)
            part = Replayed([row])
        self.sequence = max(self.sequence, entry.sequence + entry.rows - 1)
        self.memtable.add(part, size, self.context.clock.now_ms())
        self.context.memory.take(size)

    def replayed(self, rows: list[Row], payload_bytes: int) -> None:
        """Rows that its closed stays held: they are older than anything it will write itself."""
        if not rows:
            return
        size = payload_bytes + len(rows) * ENTRY_OVERHEAD_BYTES
        self.memtable.add(Replayed(rows), size, self.context.clock.now_ms())
        self.context.memory.take(size)

    def freeze(self) -> Frozen:
        """Begin a flush: what it will cover. To be called on the loop, where no entry is half received."""
        require(self.frozen is None, f"region {self.region_id} is being flushed already")
        assert self.lane is not None
        self.frozen = self.memtable.freeze(max(self.lane.end, self.stay.covered))
        return self.frozen

    def thaw(self) -> None:
        """The flush came to nothing."""
        if self.frozen is not None:
            self.memtable.put_back(self.frozen)
            self.frozen = None

    def flushed(self, manifest: Manifest) -> None:
        """The flush is committed."""
        if self.frozen is not None:
            self.context.memory.give(self.frozen.size_bytes)
            self.frozen = None
        assert self.manifest is not None
        self.left += (stay for stay in self.manifest.stays if stay.end is not None)
        self.stand_on(manifest)

    @property
    def unflushed_bytes(self) -> int:
        """Bytes in memtables."""
        return self.memtable.size_bytes + (self.frozen.size_bytes if self.frozen else 0)

    def snapshot(self) -> Snapshot:
        """What a scan that begins now reads."""
        assert self.manifest is not None
        parts = [*(self.frozen.parts if self.frozen else ()), *self.memtable.parts]
        return Snapshot(parts, self.manifest, self.schema)

    @contextlib.contextmanager
    def reading(self, keys: Iterable[str]) -> Iterator[None]:
        """These SSTs are being read: clean-up leaves them."""
        held = list(keys)
        for key in held:
            self.readers[key] = self.readers.get(key, 0) + 1
        try:
            yield
        finally:
            for key in held:
                self.readers[key] -= 1
                if not self.readers[key]:
                    del self.readers[key]

    def release(self) -> None:
        """Forget all rows: another owner has them, or nobody may."""
        self.context.memory.give(self.unflushed_bytes)
        self.memtable, self.frozen = Memtable(), None
        self.manifest, self._stay, self.prepared = None, None, None
        self.pending, self.uncertain, self.last_position = 0, False, 0
        self._batches.clear()
        self.left.clear()
        if self.lane is not None:
            if self.lane.receivers.get(self.region_id) is self:
                del self.lane.receivers[self.region_id]
            self.lane = None

    # ---------------------------------------------------------------- reports

    def make_report(self) -> nodes_pb2.RegionReport:
        """A report of this region under its epoch, to be filled in."""
        return nodes_pb2.RegionReport(region_id=self.region_id, epoch=self.epoch)

    def report_covered(self) -> None:
        """Every stay that the committed manifest names, and the ends of those that it has covered and names no longer.

        The lane of a dead owner is trimmed to its end by these: nobody else ever says where that is.
        """
        assert self.manifest is not None
        report = self.make_report()
        report.covered.manifest_epoch = self.manifest.epoch
        report.covered.manifest_version = self.manifest.version
        report.covered.sst_bytes = sum(s.bytes for s in self.manifest.ssts)
        for stay in self.manifest.stays:
            told = report.covered.stays.add(stay_epoch=stay.epoch, covered=stay.covered, done=stay.done)
            told.lane.CopyFrom(tell_lane(stay.lane))
        for stay in self.left:
            told = report.covered.stays.add(stay_epoch=stay.epoch, covered=stay.end, done=True)
            told.lane.CopyFrom(tell_lane(stay.lane))
        self.context.report(report)


def tell_lane(lane: Lane) -> types_pb2.Lane:
    """A lane as reports name it."""
    return types_pb2.Lane(node_id=lane.node_id, incarnation=lane.incarnation, index=lane.index)


def lane_of(told: types_pb2.Lane) -> Lane:
    """A lane as orders name it."""
    return Lane(told.node_id, told.incarnation, told.index)
