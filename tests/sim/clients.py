"""The clients: a frontend's real write and scan path, and a register and a growing set of rows for every key.

Write n of a key is two rows in one batch: (key, time 0, n), the register, and (key, time n, n), which stays for ever.
One writer a key writes increasing numbers, so what a reader must see is known.
"""

import asyncio
import random
import traceback
from typing import TYPE_CHECKING

import pyarrow as pa

from groundwork.adapters.route_client import RouteClient
from groundwork.adapters.rpc import use_transport
from groundwork.core.arrow import arrow_schema, encode_batch
from groundwork.core.errors import MetasrvError
from groundwork.core.table import Column, Role, Schema, TableInfo
from groundwork.sim.clock import SimClock
from groundwork.sim.processes import SimProcess
from metasrv_frontend.adapters.datanodes import Datanodes
from metasrv_frontend.adapters.route_waits import RouteWaits
from metasrv_frontend.adapters.scanner import Pool, Scanner
from metasrv_frontend.adapters.writer import Writer
from metasrv_frontend.core.pushdown import Need
from metasrv_frontend.core.rows import Piece
from metasrv_frontend.metrics import Metrics
from tests.sim.history import History
from tests.sim.hosts import CLUSTER

if TYPE_CHECKING:
    from tests.sim.world import World

COLUMNS = (
    Column("key", "string", Role.TAG),
    Column("ts", "timestamp_ns", Role.TIME),
    Column("value", "int64", Role.FIELD),
)
DEADLINE_MS = 8_000
READ_MS = 5_000
NAMES = frozenset({"key", "ts", "value"})


class Clients:
    """One frontend process and its users."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed}/clients")
        self.history = History(world)
        self.keys = [f"key-{n}" for n in range(self._chance.choice((2, 4)))]
        self.table: TableInfo | None = None
        self.why = "no table"
        self._stopping = False
        self.calm = asyncio.Event()
        self._writers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        world = self._world
        self.clock = SimClock(offset_ms=5_000, loop=world.loop)
        process = self.process = SimProcess(world.loop, "frontend-1", self.clock)
        process.call(use_transport, world.fabric.host(process))
        self._running = process.spawn(self._run())
        self._running.add_done_callback(self._failed)

    def prepared(self) -> bool:
        """Whether every key was written once."""
        return self.table is not None and all(self.history.acked.get(k) for k in self.keys)

    def _failed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self._world.trace.error("client", "".join(traceback.format_exception(error))[-2000:])

    async def _run(self) -> None:
        world, clock, metrics = self._world, self.clock, Metrics()
        self.routes = RouteClient([h.address for h in world.metasrvs], CLUSTER, None, clock, "frontend-1")
        waits = RouteWaits(self.routes, clock)
        nodes = Datanodes(CLUSTER, None)
        self._writer = Writer(self.routes, waits, nodes, clock, metrics)
        self._scanner = Scanner(self.routes, waits, nodes, clock, metrics)
        await self.routes.start()
        while self.table is None:
            try:
                self.table = await self.routes.create_table(
                    "cpu", COLUMNS, partition_columns=("key",), partitions=world.regions, if_not_exists=True,
                    request_id="create", deadline_ms=2_000,
                )  # fmt: skip
            except MetasrvError as error:
                self.why = str(error)
        self._writers = [asyncio.create_task(self._write_forever(key)) for key in self.keys]
        self._reader = asyncio.create_task(self._read_forever())
        for task in (*self._writers, self._reader):
            task.add_done_callback(self._failed)

    # ---------------------------------------------------------------- writes

    async def _write_forever(self, key: str) -> None:
        assert self.table is not None
        number = 0
        while not self._stopping:
            number += 1
            await self._write(self.table, key, number)
            await self._think()

    async def _think(self) -> None:
        """Until the next write; while all is calm there are many, so that an outage's end is seen when it comes."""
        try:
            async with asyncio.timeout(self._chance.expovariate(2.0)):
                await self.calm.wait()
                await asyncio.sleep(0.1)
        except TimeoutError:
            pass

    async def _write(self, table: TableInfo, key: str, number: int) -> bool:
        """Write `number` until it is acknowledged or given up."""
        region_id = table.region_of({"key": key})
        self.history.attempts(key, number)
        began_s = self._world.loop.time()
        undone = await self._writer.write(
            {region_id: [_piece(table, region_id, key, number)]}, self.clock.now_ms() + DEADLINE_MS
        )
        if undone:
            self._world.trace.note("client", "write_undone", key=key, number=number, why=undone[0].refusal.code)
            return False
        self.history.acknowledged(key, number, began_s)
        return True

    # ---------------------------------------------------------------- reads

    async def _read_forever(self) -> None:
        assert self.table is not None
        while not self._stopping:
            await asyncio.sleep(self._chance.expovariate(1.0))
            key = self._chance.choice(self.keys)
            await self._read(self.table, key, strong=self._chance.random() < 0.7)

    async def _read(self, table: TableInfo, key: str, strong: bool, within_ms: float = READ_MS) -> bool:
        """Read the region of a key and hold all of its keys against the history; whether it could be read."""
        region_id = table.region_of({"key": key})
        keys = [k for k in self.keys if table.region_of({"key": k}) == region_id]
        before = self.history.before_read(keys, strong)
        need = Need(NAMES)
        try:
            with Pool(1 << 30).share(1 << 30) as budget:
                [batches] = await self._scanner.read(
                    table, [region_id], need, strong, self.clock.now_ms() + within_ms, budget
                )
        except MetasrvError as error:
            self._world.trace.note("client", "read_undone", key=key, why=str(error))
            return False
        self.history.after_read(before, _rows(batches), strong)
        return True

    # ---------------------------------------------------------------- the end

    async def finish(self, until_s: float) -> None:
        """All faults are over: every key is written once more, and read."""
        self._stopping = True
        done = self.process.spawn(self._finish(until_s))
        await asyncio.wait({done})
        if not done.cancelled() and done.exception() is not None:
            raise done.exception() or AssertionError

    async def _finish(self, until_s: float) -> None:
        assert self.table is not None
        loop = self._world.loop
        await asyncio.gather(*self._writers, self._reader)
        for key in self.keys:
            number = max(self.history.attempted[key]) + 1
            while not await self._write(self.table, key, number):
                number += 1
                if loop.time() > until_s:
                    self._world.fail(f"{key} takes no writes {until_s - loop.time():.0f} s after all faults ended")
                    return
        for key in self.keys:
            while not await self._read(self.table, key, strong=True, within_ms=10_000):
                if loop.time() > until_s:
                    self._world.fail(f"{key} cannot be read after all faults ended")
                    return
        self.history.complete = True


_TIMES = pa.timestamp("ns")
_schemas: dict[Schema, pa.Schema] = {}


def _piece(table: TableInfo, region_id: int, key: str, number: int) -> Piece:
    schema = _schemas.get(table.schema)
    if schema is None:
        schema = _schemas[table.schema] = arrow_schema(table.schema)
    times = pa.array([0, number], _TIMES)
    batch = pa.RecordBatch.from_arrays(
        [pa.array([key, key]), times, pa.array([number, number], pa.int64())], schema=schema
    )
    return Piece(region_id, 2, table.schema.version, encode_batch(batch))


def _rows(batches: list[pa.RecordBatch]) -> dict[str, dict[int, int]]:
    """key -> time -> value."""
    found: dict[str, dict[int, int]] = {}
    for batch in batches:
        times = batch.column("ts").view(pa.int64()).to_pylist()
        for key, ts, value in zip(
            batch.column("key").to_pylist(), times, batch.column("value").to_pylist(), strict=True
        ):
            found.setdefault(key, {})[ts] = value
    return found
