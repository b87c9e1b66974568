"""Writes: check epoch and lease, append, memtable in lane order (the sink does that), check again, acknowledge.

Whether a write was kept is never decided by a lease: an append behind a seal fails at the shared medium. The second
check only keeps an owner that slept from acknowledging late.
"""

import asyncio
from collections.abc import Mapping, Sequence

import pyarrow as pa

from datanode_agent.core.memory import ENTRY_OVERHEAD_BYTES
from datanode_agent.core.region_state import State
from datanode_agent.engine.context import Context
from datanode_agent.engine.departed import Departed
from datanode_agent.engine.flushing import Flusher, NotOwned
from datanode_agent.engine.manifests import Fenced
from datanode_agent.engine.region import TAKES_APPENDS, Region
from datanode_agent.engine.waiting import Changed, within
from groundwork.core import marks
from groundwork.core.arrow import arrow_schema, check_batch
from groundwork.core.entry import ENTRY_BYTES_MAX, Entry, Kind
from groundwork.core.errors import BadInput, LaneError, StoreUnavailable
from groundwork.core.ids import table_of
from groundwork.core.table import Role, Schema
from protos.datanode.v1 import datanode_pb2 as pb

WAITS = (State.OPENING, State.PREPARING)
WAITING_PART = 4  # of the memory budget: the writes that wait for regions to open hold no more than one such part


def check_rows(write: pb.RegionWrite, schema: Schema) -> pa.RecordBatch:
    """The decoded batch, every value looked at. Raises BadInput: what cannot be read must never enter a lane."""
    body = write.batch
    if not 0 < len(body) <= ENTRY_BYTES_MAX:
        raise BadInput("batch", f"{len(body)} bytes; 1 to {ENTRY_BYTES_MAX}: split the write")
    told = arrow_schema(schema)
    batch = check_batch(body, told, write.rows)
    message = pa.ipc.read_message(body)
    if 8 + int.from_bytes(body[4:8], "little") + (message.body.size if message.body else 0) != len(body):
        raise BadInput("batch", "bytes follow the record batch message")
    for column in schema.columns:
        if column.role is not Role.FIELD and batch.column(told.get_field_index(column.name)).null_count:
            raise BadInput(f"column {column.name}", "a tag or a time is null: an absent tag is the empty string")
    return batch


class Writer:
    """The write path of one engine."""

    def __init__(
        self, context: Context, regions: Mapping[int, Region], departed: Departed, flusher: Flusher,
        arrived: Changed,
    ) -> None:  # fmt: skip
        self._context = context
        self._regions = regions
        self._departed = departed
        self._flusher = flusher
        self._arrived = arrived  # an order came
        self.waiting = 0
        self.waiting_bytes = 0
        self.rows_acknowledged = 0

    async def write(self, writes: Sequence[pb.RegionWrite], deadline_ms: float) -> list[pb.RegionOutcome]:
        """One outcome per write."""
        until_ms = self._context.clock.now_ms() + deadline_ms
        if len(writes) == 1:
            handed_ms = self._context.clock.now_ms() + self._context.config.handed_wait_ms
            outcomes = [await self._write(writes[0], until_ms, min(until_ms, handed_ms))]
        else:  # the others' answers must not wait until one of them is handed over
            outcomes = list(await asyncio.gather(*(self._write(w, until_ms, 0) for w in writes)))
        for outcome in outcomes:
            self._context.metrics.writes.labels(pb.Outcome.Name(outcome.outcome)).inc()
        return outcomes

    # ---------------------------------------------------------------- who may be written to

    def region(self, region_id: int) -> Region | None:
        """What is here of a region."""
        return self._regions.get(region_id)

    async def ready(
        self, region_id: int, epoch: int, until_ms: float, handed_ms: float, size: int = 0
    ) -> Region | pb.RegionOutcome:  # fmt: skip
        """The region when it serves under this epoch and the lease runs; else a refusal. Waits within the deadline.

        A request with an epoch that this node does not know yet waits for it: routes may be faster than orders. One to
        a region that is being handed over waits until `handed_ms` to be told who has it: that is sooner than the route.
        `size` is what the request holds in memory meanwhile.
        """
        while True:
            region = self._regions.get(region_id)
            refusal, waits_for = self._look(region_id, region, epoch)
            if refusal is None and region is not None:
                return region
            assert refusal is not None
            left_ms = (handed_ms if refusal.outcome == pb.STOPPED else until_ms) - self._context.clock.now_ms()
            if waits_for is None or left_ms <= 0:
                return refusal
            if self._too_many(size):
                refusal.outcome, refusal.retry_after_ms = pb.OVERLOADED, 100
                held = f"{self.waiting} requests of {self.waiting_bytes} bytes"
                refusal.message = f"{held} wait for regions to open here already; try again"
                return refusal
            self._wait(1, size)
            try:
                await within(self._context.clock, waits_for.future(), left_ms)
            finally:
                self._wait(-1, -size)

    def _too_many(self, size: int) -> bool:
        """Whether one more request of that size may not wait. One alone may, however big it is."""
        config = self._context.config
        bytes_max = config.memory_budget_bytes // WAITING_PART
        full = self.waiting_bytes > 0 and self.waiting_bytes + size > bytes_max
        return self.waiting >= config.waiting_requests_max or (size > 0 and full)

    def _wait(self, requests: int, size: int) -> None:
        self.waiting += requests
        self.waiting_bytes += size
        self._context.memory.take(size)

    def _look(
        self, region_id: int, region: Region | None, epoch: int
    ) -> tuple[pb.RegionOutcome | None, Changed | None]:  # fmt: skip
        """(None, None) when it may go on; else the refusal, and what to wait for where waiting can help."""
        if region is None or region.state is State.CLOSED:
            known = self._departed.epoch(region_id)
            answer = pb.RegionOutcome(region_id=region_id, outcome=pb.NOT_OWNER, epoch=known)
            answer.message = "this node does not own the region: ask for the route again"
            self._departed.send_on(answer, epoch)
            return answer, self._arrived if epoch > known else None
        if region.state is State.SERVING and epoch == region.epoch and self._context.lease.valid():
            return None, None
        answer = pb.RegionOutcome(region_id=region_id, epoch=region.epoch)
        if epoch > region.epoch or region.state in WAITS:
            answer.outcome = pb.OPENING
            answer.message = f"the region is {region.state} here under epoch {region.epoch}: it will serve"
            return answer, region.changed
        if epoch < region.epoch:
            answer.outcome = pb.STALE_EPOCH
            answer.message = f"the route names epoch {epoch}, the region has {region.epoch}: ask for the route again"
            return answer, None
        if region.state is State.SERVING:
            answer.outcome, answer.message = pb.NO_LEASE, "this node may not serve now: its lease is not renewed"
            return answer, None
        if region.state is State.READ_ONLY:
            answer.outcome = pb.READ_ONLY
            answer.message = (
                "acknowledged entries are damaged: the region is open for reads until an operator accepts the loss"
            )
            return answer, None
        handed = region.state in (State.STOPPING, State.STOPPED)
        answer.outcome = pb.STOPPED if handed else pb.NOT_OWNER
        answer.message = f"the region is {region.state} here: ask for the route again"
        return answer, region.changed if handed else None

    # ---------------------------------------------------------------- one write

    async def _write(self, write: pb.RegionWrite, until_ms: float, handed_ms: float) -> pb.RegionOutcome:
        size = len(write.batch) + ENTRY_OVERHEAD_BYTES
        region = await self.ready(write.region_id, write.epoch, until_ms, handed_ms, size)
        if not isinstance(region, Region):
            return region
        outcome = pb.RegionOutcome(region_id=write.region_id, epoch=write.epoch)
        schema = await self._schema(region, write.schema_version, until_ms)
        if schema is None:
            outcome.outcome = pb.UNKNOWN_SCHEMA
            outcome.message = (
                f"schema version {write.schema_version} of table {table_of(write.region_id)} is not known here"
            )
            return outcome
        try:
            batch = check_rows(write, schema)
        except BadInput as error:
            outcome.outcome, outcome.message = pb.BAD_REQUEST, str(error)
            return outcome
        if not self._context.memory.admits(size):
            outcome.outcome, outcome.retry_after_ms = pb.OVERLOADED, self._context.memory.retry_after_ms(size)
            outcome.message = "the memory budget is used up until memtables are flushed; try again"
            return outcome
        # Waiting for a schema gave up the loop: look again, and from here to the append there is no await.
        refusal, _ = self._look(write.region_id, self._regions.get(write.region_id), write.epoch)
        if refusal is not None or self._regions.get(write.region_id) is not region:
            return refusal or pb.RegionOutcome(region_id=write.region_id, outcome=pb.NOT_OWNER)
        return await self._append(region, write, batch, outcome)

    async def _schema(self, region: Region, version: int, until_ms: float) -> Schema | None:
        assert region.manifest is not None
        while region.manifest is not None and region.schema.version < version:
            left_ms = until_ms - self._context.clock.now_ms()
            if not await within(self._context.clock, self._context.tables_changed.future(), left_ms):
                return None
        if region.manifest is not None and region.manifest.schema.version < version:
            try:
                await self._flusher.widen(region)
            except (Fenced, NotOwned):
                return None
        return region.schema.at(version) if region.manifest is not None and version > 0 else None

    async def _append(
        self, region: Region, write: pb.RegionWrite, batch: pa.RecordBatch, outcome: pb.RegionOutcome
    ) -> pb.RegionOutcome:
        lane = region.lane
        assert lane is not None
        sequence, epoch, stay = region.sequence + 1, region.epoch, region.stay.key
        size = len(write.batch) + ENTRY_OVERHEAD_BYTES
        region.sequence += write.rows
        region.expect(epoch, sequence, batch)
        region.pending += 1
        known = False
        self._context.memory.take(size)  # in flight; the sink counts what became durable
        try:
            entry = Entry(Kind.DATA, region.region_id, epoch, sequence, write.rows, write.schema_version, write.batch)
            position = await lane.append(entry)
            known = True
            # The decision to acknowledge: no await between it and the end of this block.
            if not region.stays_in(stay) or region.epoch != epoch or region.state not in TAKES_APPENDS:
                marks.mark("kept_but_moved")
                outcome.outcome, outcome.epoch = pb.UNKNOWN_OUTCOME, region.epoch
                outcome.message = (
                    f"kept, but the region is {region.state} under epoch {region.epoch} now: write it again there"
                )
            elif not self._context.lease.valid():
                marks.mark("kept_but_lease_ended")
                outcome.outcome = pb.UNKNOWN_OUTCOME
                outcome.message = "kept, but the lease ended meanwhile: write it again where the route says"
            else:
                outcome.outcome = pb.DONE
                marks.tell("write_acknowledged", region.region_id, epoch, stay, position)
                self.rows_acknowledged += write.rows
        except LaneError as error:
            outcome.outcome, outcome.message = pb.UNKNOWN_OUTCOME, f"{error}: write it again where the route says"
        except StoreUnavailable as error:
            outcome.outcome, outcome.message = pb.UNKNOWN_OUTCOME, str(error)
        finally:
            self._context.memory.give(size)
            if region.stays_in(stay):
                region.pending -= 1
                region.uncertain = region.uncertain or not known
                if not known:
                    region.unexpect(epoch, sequence)
                if region.state is State.STOPPING:
                    region.changed.notify()
        return outcome
