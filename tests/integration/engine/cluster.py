"""Engines of several datanodes over one bucket, and the orders that metasrv would give them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from datanode_agent.engine.engine import Engine, EngineConfig
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.core.arrow import arrow_schema
from groundwork.core.ids import Lane, region_id
from groundwork.core.table import Column, Role, Schema
from groundwork.sim.clock import SimClock, run_sim
from groundwork.sim.objects import Bucket, Faults, Gate, SimObjectStore
from groundwork.sim.workers import InlineWorkers
from protos.datanode.v1 import datanode_pb2 as pb
from protos.metasrv.v1 import nodes_pb2, types_pb2

T = TypeVar("T")
TABLE = 7
R = region_id(TABLE, 0)
V1 = Schema(
    1,
    (
        Column("host", "string", Role.TAG),
        Column("ts", "timestamp_ns", Role.TIME),
        Column("value", "float64", Role.FIELD),
    ),
)
V2 = Schema(2, (*V1.columns, Column("note", "string", Role.FIELD, 2), Column("rack", "string", Role.TAG, 2)))
QUIET = EngineConfig(tick_ms=3_600_000, settle_ms=3_600_000, canary_ms=3_600_000, probe_ms=3_600_000)
Row = tuple[Any, ...]


class Lease:
    """A lease that a test turns on and off."""

    def __init__(self) -> None:
        self.on = True

    def valid(self) -> bool:
        """Whether it runs."""
        return self.on


class Node:
    """One datanode process: kill() it and what it had is gone, but for what it put in the bucket."""

    def __init__(
        self, bucket: Bucket, name: str, token: int, config: EngineConfig = QUIET, gate: Gate | None = None
    ) -> None:
        self.name, self.token, self.lease, self.faults = name, token, Lease(), Faults()
        self.reports: list[nodes_pb2.RegionReport] = []
        self.clock = SimClock()
        self.store = SimObjectStore(bucket, self.faults, seed=token, gate=gate)
        self.logs = ObjectsLog(self.store, self.clock, InlineWorkers())
        self.engine = Engine(
            node_id=name, store=self.store, logs=self.logs, clock=self.clock, workers=InlineWorkers(),
            config=config, lease=self.lease, report=self.reports.append,
        )  # fmt: skip
        self.revision = 0

    async def start(self, lanes: int = 1) -> "Node":
        """Open its lanes, with a grant that names them."""
        await self.engine.start(self.token, lanes)
        self.engine.admit(list(range(lanes)))
        return self

    @property
    def lane(self) -> Lane:
        """Its first lane."""
        return Lane(self.name, self.token, 0)

    def tell(self, *orders: nodes_pb2.Order, schema: Schema = V1, snapshot: bool = False, regions: int = 1) -> None:
        """Give orders, as one reply of the stream."""
        self.revision += 1
        reply = nodes_pb2.OrdersReply(revision=self.revision, orders=list(orders), snapshot=snapshot)
        reply.tables.append(table(schema, regions))
        for order in reply.orders:
            order.revision = self.revision
        self.engine.apply(reply)

    async def open(
        self, epoch: int, region: int = R, over: Sequence[Lane] = (), ends: Sequence[tuple[Lane, int, int]] = (),
        schema: Schema = V1, lane_index: int = 0,
    ) -> None:  # fmt: skip
        """Order it open and wait until it serves."""
        self.tell(order(nodes_pb2.OPEN, epoch, region, over=over, ends=ends, lane_index=lane_index), schema=schema)
        await self.until(lambda: self.state(region) == "serving")

    def state(self, region: int = R) -> str:
        """What a region is here."""
        return next((r.state for r in self.engine.regions() if r.region_id == region), "closed")

    def info(self, region: int = R) -> pb.RegionInfo:
        """What an operator sees of it."""
        return next(r for r in self.engine.regions() if r.region_id == region)

    async def until(self, condition: Callable[[], bool], ms: float = 60_000) -> None:
        """Wait in virtual time; what it came to is in the message."""
        for _ in range(int(ms)):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{self.name}: {self.engine.regions()} {self.reports[-3:]}")

    def last(self, what: str) -> nodes_pb2.RegionReport:
        """The newest report of a kind."""
        return next(r for r in reversed(self.reports) if r.WhichOneof("what") == what)

    def last_covered(self, region: int) -> int:
        """The highest position of its own lane that was reported as covered."""
        reports = [r for r in self.reports if r.HasField("covered") and r.region_id == region]
        return max((s.covered for r in reports for s in r.covered.stays if s.lane.incarnation == self.token), default=0)

    async def kill(self) -> None:
        """The process is gone: nothing of it acts any more."""
        await self.engine.abandon()
        await self.engine.stop(flush=False)

    async def write(self, epoch: int, rows: Sequence[Row], region: int = R, schema: Schema = V1) -> pb.RegionOutcome:
        """One write, and its outcome."""
        [outcome] = await self.engine.write([region_write(epoch, rows, region, schema)], 5_000)
        return outcome

    async def put(self, epoch: int, rows: Sequence[Row], region: int = R, schema: Schema = V1) -> None:
        """Write, and insist that it is acknowledged."""
        outcome = await self.write(epoch, rows, region, schema)
        assert outcome.outcome == pb.DONE, outcome

    async def rows(self, epoch: int, region: int = R, **options: Any) -> list[Row]:
        """Scan, sorted."""
        got = await self.scan(epoch, region, **options)
        assert isinstance(got, pa.Table), got
        return sorted(zip(*(column_values(got, i) for i in range(got.num_columns)), strict=True), key=repr)

    async def scan(self, epoch: int, region: int = R, **options: Any) -> pa.Table | pb.RegionOutcome:
        """A table, or the refusal."""
        request = pb.ScanRequest(region_id=region, epoch=epoch, **options)
        pieces: list[bytes] = []
        async for reply in self.engine.scan(request, 5_000):
            if reply.HasField("refused"):
                return reply.refused
            pieces.append(reply.ipc)
        return pa.ipc.open_stream(b"".join(pieces)).read_all()


def column_values(table: pa.Table, index: int) -> list[Any]:
    """Python values; times as nanoseconds."""
    column = table.column(index)
    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()


def table(schema: Schema, regions: int = 1) -> types_pb2.Table:
    """A table as orders tell it."""
    told = types_pb2.Table(table_id=TABLE, name="cpu", schema_version=schema.version)
    for c in schema.columns:
        told.columns.add(name=c.name, type=c.type, role=int(c.role), since_version=c.since_version)  # type: ignore[arg-type]
    told.region_ids.extend(region_id(TABLE, n) for n in range(regions))
    return told


def told_lane(lane: Lane) -> types_pb2.Lane:
    """A lane as orders tell it."""
    return types_pb2.Lane(node_id=lane.node_id, incarnation=lane.incarnation, index=lane.index)


def order(
    kind: nodes_pb2.OrderKind.ValueType, epoch: int, region: int = R, *, attempt: int = 0, over: Sequence[Lane] = (),
    ends: Sequence[tuple[Lane, int, int]] = (), from_lane: Lane | None = None, lane_index: int = 0,
) -> nodes_pb2.Order:  # fmt: skip
    """An order; `ends` are (lane, stay epoch, position)."""
    told = nodes_pb2.Order(
        region_id=region, table_id=region >> 32, kind=kind, epoch=epoch, attempt=attempt, lane_index=lane_index
    )
    told.over.extend(told_lane(lane) for lane in over)
    for lane, stay_epoch, position in ends:
        told.ends.add(lane=told_lane(lane), stay_epoch=stay_epoch, position=position)
    if from_lane is not None:
        told.from_lane.CopyFrom(told_lane(from_lane))
    return told


def region_write(epoch: int, rows: Sequence[Row], region: int = R, schema: Schema = V1) -> pb.RegionWrite:
    """One region's part of a write request."""
    told = arrow_schema(schema)
    columns = [pa.array([row[i] for row in rows], type=field.type) for i, field in enumerate(told)]
    batch = pa.RecordBatch.from_arrays(columns, schema=told)
    return pb.RegionWrite(
        region_id=region, epoch=epoch, schema_version=schema.version, rows=len(rows),
        batch=batch.serialize().to_pybytes(),
    )  # fmt: skip


def simulate(main: Callable[[Bucket], Awaitable[T]]) -> T:
    """Run a test over a fresh bucket, in virtual time."""

    async def run() -> T:
        return await main(Bucket())

    return run_sim(run())
