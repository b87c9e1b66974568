"""Scans: memtable and SSTs of one moment, merged group by group, streamed as Arrow IPC messages.

Sources whose times overlap form a group; groups do not overlap, so each is read, merged and sent by itself, and a
limit ends the scan early. The lease is checked before every piece leaves.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from datanode_agent.core.region_state import State
from datanode_agent.engine.context import Context
from datanode_agent.engine.memtable import Part, stack
from datanode_agent.engine.merge import conform, in_range, last_writes, times
from datanode_agent.engine.region import Region, Snapshot
from datanode_agent.engine.sst import read_sst
from datanode_agent.engine.waiting import within
from datanode_agent.engine.writing import Writer
from groundwork.core.arrow import arrow_schema
from groundwork.core.entry import Entry, Kind
from groundwork.core.errors import Damaged, LaneError, NotFound, StoreError, StoreUnavailable
from groundwork.core.manifest import Sst
from groundwork.core.table import Schema
from protos.datanode.v1 import datanode_pb2 as pb

PIECE_ROWS = 1 << 16
GETS_MAX = 16  # of SSTs, by all scans together
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
READABLE = (State.SERVING, State.STOPPING, State.READ_ONLY)


class Plan(NamedTuple):
    """What a scan is to do."""

    schema: Schema  # the newest: a tag that the caller does not know yet still tells two keys apart
    columns: list[str]  # that the caller gets
    needed: list[str]  # those, and what merging needs
    from_ns: int
    to_ns: int


class Group(NamedTuple):
    """Sources whose times overlap; `memory` when the memtable is one of them."""

    ssts: list[Sst]
    memory: bool


def plan_scan(request: pb.ScanRequest, schema: Schema) -> Plan | str:
    """The plan, or why the request is bad. `schema` is the newest that the region knows."""
    told = schema.at(request.schema_version or schema.version)
    unknown = [name for name in request.columns if told.column(name) is None]
    if unknown:
        return f"schema version {told.version} has no column {unknown[0]!r}"
    columns = list(dict.fromkeys(request.columns)) or [c.name for c in told.columns]
    keys = [c.name for c in schema.tags] + [schema.time.name]
    return Plan(schema, columns, list(dict.fromkeys([*keys, *columns])), request.from_ns, request.to_ns)


def group(ssts: Sequence[Sst], memory: tuple[int, int] | None, plan: Plan) -> list[Group]:
    """Sources in range, in groups that do not overlap in time, oldest first."""
    everything = plan.from_ns == 0 and plan.to_ns == 0
    spans: list[tuple[int, int, Sst | None]] = [
        (s.min_ts, s.max_ts, s) for s in ssts if everything or (s.max_ts >= plan.from_ns and s.min_ts < plan.to_ns)
    ]
    if memory is not None:
        spans.append((*memory, None))
    groups: list[Group] = []
    last = None
    for low, high, sst in sorted(spans, key=lambda s: s[:2]):
        if last is None or low > last:
            groups.append(Group([], False))
            last = high
        last = max(last, high)
        current = groups[-1]
        groups[-1] = Group([*current.ssts, sst], current.memory) if sst else Group(current.ssts, True)
    return groups


def _memory(parts: Sequence[Part], plan: Plan) -> tuple[pa.Table, tuple[int, int] | None]:
    table = conform(stack(parts, plan.schema), plan.schema, plan.needed)
    table = in_range(table, plan.schema, plan.from_ns, plan.to_ns)
    if table.num_rows == 0:
        return table, None
    stamps = times(table, plan.schema)
    return table, (int(stamps.min()), int(stamps.max()))


def _messages(
    bodies: list[tuple[Sst, bytes]], memory: pa.Table | None, plan: Plan, limit: int | None
) -> list[tuple[int, bytes]]:
    """One group's rows as (rows, IPC message) pieces."""
    tables = [
        in_range(read_sst(body, plan.schema, plan.needed, sst.key), plan.schema, plan.from_ns, plan.to_ns)
        for sst, body in bodies
    ]
    if memory is not None:
        tables.append(memory)
    table = tables[0] if len(tables) == 1 and memory is None else last_writes(pa.concat_tables(tables), plan.schema)
    table = table.select(plan.columns)
    if limit is not None:
        table = table.slice(0, limit)
    pieces = table.combine_chunks().to_batches(max_chunksize=PIECE_ROWS)
    return [(piece.num_rows, piece.serialize().to_pybytes()) for piece in pieces if piece.num_rows]


class Scanner:
    """The read path of one engine."""

    def __init__(self, context: Context, writer: Writer) -> None:
        self._context = context
        self._writer = writer
        self._gets = asyncio.Semaphore(GETS_MAX)

    async def scan(self, request: pb.ScanRequest, deadline_ms: float) -> AsyncIterator[pb.ScanReply]:
        """See Engine.scan."""
        until_ms = self._context.clock.now_ms() + deadline_ms
        outcome = "done"
        async for reply in self._scan(request, until_ms):
            if reply.HasField("refused"):
                outcome = pb.Outcome.Name(reply.refused.outcome).lower()
            yield reply
        self._context.metrics.scans.labels(outcome).inc()

    async def _scan(self, request: pb.ScanRequest, until_ms: float) -> AsyncIterator[pb.ScanReply]:
        region = await self._ready(request, until_ms)
        if not isinstance(region, Region):
            yield pb.ScanReply(refused=region)
            return
        refusal = await self._barrier(region, request, until_ms) if request.strong else None
        refusal = refusal or await self._wait_for_schema(region, request, until_ms) or self._may_leave(region, request)
        if refusal is not None:
            yield pb.ScanReply(refused=refusal)
            return
        snapshot = region.snapshot()
        plan = plan_scan(request, snapshot.schema)
        if isinstance(plan, str):
            yield pb.ScanReply(refused=self._refuse(request, pb.BAD_REQUEST, plan))
            return
        schema = pa.schema([arrow_schema(plan.schema).field(name) for name in plan.columns])
        with region.reading(s.key for s in snapshot.manifest.ssts):
            # Held before the first piece leaves: a slow caller may take longer than the files stay otherwise.
            yield pb.ScanReply(ipc=schema.serialize().to_pybytes())
            try:
                async for message in self._pieces(snapshot, plan, request.limit):
                    refusal = self._may_leave(region, request)
                    if refusal is not None:
                        yield pb.ScanReply(refused=refusal)
                        return
                    yield pb.ScanReply(ipc=message)
            except (StoreError, Damaged) as error:
                kind = pb.READ_ONLY if isinstance(error, (Damaged, NotFound)) else pb.OVERLOADED
                refusal = self._refuse(request, kind, str(error), retry_after_ms=100)
                # Of a region that has left, its next owner may have deleted files: that is no damage.
                yield pb.ScanReply(refused=self._may_leave(region, request) or refusal)
                return
        yield pb.ScanReply(ipc=_END_OF_STREAM)

    async def _get(self, sst: Sst) -> bytes:
        async with self._gets:
            return await self._context.store.get(sst.key)

    async def _pieces(self, snapshot: Snapshot, plan: Plan, limit: int) -> AsyncIterator[bytes]:
        workers, sent = self._context.workers, 0
        memory, span = await workers.run(lambda: _memory(snapshot.parts, plan))
        for members in group(snapshot.manifest.ssts, span, plan):
            read = await asyncio.gather(*(self._get(sst) for sst in members.ssts))
            bodies = list(zip(members.ssts, read, strict=True))
            merge = functools.partial(
                _messages, bodies, memory if members.memory else None, plan, limit - sent if limit else None
            )
            for rows, message in await workers.run(merge):
                yield message
                sent += rows
            if limit and sent >= limit:
                return

    # ---------------------------------------------------------------- who may be read

    async def _ready(self, request: pb.ScanRequest, until_ms: float) -> Region | pb.RegionOutcome:
        region = self._writer.region(request.region_id)
        if region is not None and region.epoch == request.epoch and region.state in READABLE and self._leased():
            return region
        handed_ms = min(until_ms, self._context.clock.now_ms() + self._context.config.handed_wait_ms)
        found = await self._writer.ready(request.region_id, request.epoch, until_ms, handed_ms)
        region = self._writer.region(request.region_id)
        if region is not None and region.epoch == request.epoch and region.state in READABLE and self._leased():
            return region
        return found

    def _leased(self) -> bool:
        return self._context.lease.valid()

    def _may_leave(self, region: Region, request: pb.ScanRequest) -> pb.RegionOutcome | None:
        """None, or why no more rows may leave: checked before every piece."""
        if not self._leased():
            return self._refuse(request, pb.NO_LEASE, "the lease ended: read again where the route says")
        if region.epoch != request.epoch or region.state not in READABLE:
            answer = self._refuse(
                request, pb.STOPPED, f"the region is {region.state} here now: ask for the route again"
            )
            answer.epoch = region.epoch
            return answer
        return None

    async def _barrier(self, region: Region, request: pb.ScanRequest, until_ms: float) -> pb.RegionOutcome | None:
        """A strong read: an entry of its own comes back through the lane, so nobody else serves."""
        if region.lane is None or region.state is not State.SERVING:
            return self._refuse(request, pb.STOPPED, f"the region is {region.state}: a strong read needs its lane")
        entry = Entry(Kind.BARRIER, region.region_id, region.epoch, 0, 0, 0, b"")
        try:
            await region.lane.append(entry)
        except LaneError as error:
            return self._refuse(request, pb.NOT_OWNER, f"{error}: ask for the route again")
        except StoreUnavailable as error:
            return self._refuse(request, pb.OVERLOADED, str(error), retry_after_ms=100)
        if self._context.clock.now_ms() > until_ms:
            return self._refuse(request, pb.OVERLOADED, "the barrier came back after the deadline", retry_after_ms=100)
        return None

    async def _wait_for_schema(
        self, region: Region, request: pb.ScanRequest, until_ms: float
    ) -> pb.RegionOutcome | None:
        while region.manifest is not None and region.schema.version < request.schema_version:
            left_ms = until_ms - self._context.clock.now_ms()
            if not await within(self._context.clock, self._context.tables_changed.future(), left_ms):
                return self._refuse(
                    request, pb.UNKNOWN_SCHEMA, f"schema version {request.schema_version} is not known here"
                )
        return None

    def _refuse(
        self, request: pb.ScanRequest, outcome: pb.Outcome.ValueType, message: str, retry_after_ms: int = 0
    ) -> pb.RegionOutcome:
        return pb.RegionOutcome(
            region_id=request.region_id, outcome=outcome, message=message, epoch=request.epoch,
            retry_after_ms=retry_after_ms,
        )  # fmt: skip
