"""The clients: users of the frontends' real write and scan path; a register and a growing set of rows for every key.

Write n of a key is two rows in one batch: (key, time 0, n), the register, and (key, time n, n), which stays for ever.
One user a key writes increasing numbers, so what a reader must see is known. Users go to either frontend, and change
now and then: so what one frontend still believes of a route meets what the other knows.
"""

import asyncio
import functools
import random
import traceback
from typing import TYPE_CHECKING

import pyarrow as pa

from groundwork.core.arrow import arrow_schema, encode_batch
from groundwork.core.errors import MetasrvError
from groundwork.core.table import Column, Role, Schema, TableInfo
from metasrv_frontend.adapters.scanner import Pool
from metasrv_frontend.adapters.writer import Undone
from metasrv_frontend.core.pushdown import Need
from metasrv_frontend.core.rows import Piece
from tests.sim.frontends import FrontendGone, FrontendHost
from tests.sim.history import History

if TYPE_CHECKING:
    from tests.sim.world import World

COLUMNS = (
    Column("key", "string", Role.TAG),
    Column("ts", "timestamp_ns", Role.TIME),
    Column("value", "int64", Role.FIELD),
)
DEADLINE_MS = 8_000
READ_MS = 5_000
LOOK_MS = 800
BEGIN_S = 4.0  # the longest that the table waits for many datanodes
GONE_S = 0.2  # until a user whose frontend died goes to another
NAMES = frozenset({"key", "ts", "value"})


class Clients:
    """The users."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed}/clients")
        self.history = History(world)
        self.keys = [f"key-{n}" for n in range(self._chance.choice((2, 4)))]
        if len(world.datanodes) > 4:
            self.keys += [f"key-{n}" for n in (4, 5)]
        self._moving = self._chance.choice((0.1, 0.4))  # how often a user goes to another frontend without need
        self.table: TableInfo | None = None
        self.why = "no table"
        self._stopping = False
        self.calm = asyncio.Event()
        self._writers: list[asyncio.Task[None]] = []
        self._lookers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self._failed)

    def prepared(self) -> bool:
        """Whether every key was written once."""
        return self.table is not None and all(self.history.acked.get(k) for k in self.keys)

    def _failed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self._world.trace.error("client", "".join(traceback.format_exception(error))[-2000:])

    async def _run(self) -> None:
        world = self._world
        if len(world.datanodes) > 4:  # so that all of them get something to do
            await world.holds_within(world.checks.all_registered, BEGIN_S)
        while self.table is None:
            frontend = self._chance.choice(world.frontends)
            try:
                self.table = await frontend.ask(functools.partial(self._create, frontend))
            except (MetasrvError, FrontendGone) as error:
                self.why = str(error)
                await asyncio.sleep(0.05)
        self._writers = [asyncio.create_task(self._write_forever(key)) for key in self.keys]
        self._reader = asyncio.create_task(self._read_forever())
        for task in (*self._writers, self._reader):
            task.add_done_callback(self._failed)

    async def _create(self, frontend: FrontendHost) -> TableInfo:
        return await frontend.routes.create_table(
            "cpu", COLUMNS, partition_columns=("key",), partitions=self._world.regions, if_not_exists=True,
            request_id="create", deadline_ms=2_000,
        )  # fmt: skip

    def _frontend(self, but: FrontendHost | None = None) -> FrontendHost:
        """One that answers, if any does."""
        others = [f for f in self._world.frontends if f is not but] or self._world.frontends
        return self._chance.choice([f for f in others if f.up and f.ready] or others)

    # ---------------------------------------------------------------- writes

    async def _write_forever(self, key: str) -> None:
        assert self.table is not None
        number, frontend = 0, self._frontend()
        while not self._stopping:
            number += 1
            done = await self._write(self.table, key, number, frontend)
            if not done or self._chance.random() < self._moving:
                frontend = self._frontend(frontend)
            await self._think()

    async def _think(self) -> None:
        """Until the next write; while all is calm there are many, so that an outage's end is seen when it comes."""
        try:
            async with asyncio.timeout(self._chance.expovariate(2.0)):
                await self.calm.wait()
                await asyncio.sleep(0.1)
        except TimeoutError:
            pass

    async def _write(self, table: TableInfo, key: str, number: int, frontend: FrontendHost) -> bool:
        """Write `number` until it is acknowledged or given up."""
        region_id = table.region_of({"key": key})
        self.history.attempts(key, number)
        pieces = {region_id: [_piece(table, region_id, key, number)]}

        async def write() -> list[Undone]:
            return await frontend.writer.write(pieces, frontend.clock.now_ms() + DEADLINE_MS)

        began_s = self._world.loop.time()
        self._world.outages.writing[key] = (frontend.name, region_id, began_s)
        try:
            undone = await frontend.ask(write)
        except FrontendGone:
            self._world.trace.note("client", "write_unknown", key=key, number=number, via=frontend.name)
            await asyncio.sleep(GONE_S)
            return False
        finally:
            del self._world.outages.writing[key]
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

    def looks(self, for_s: float) -> None:
        """For so long, many reads through each frontend: somebody may go on serving what is another's by now."""
        for frontend in self._world.frontends:
            task = self._world.loop.create_task(self._look(frontend, self._world.loop.time() + for_s))
            task.add_done_callback(self._failed)
            self._lookers.append(task)

    async def _look(self, frontend: FrontendHost, until_s: float) -> None:
        while self.table is not None and not self._stopping and self._world.loop.time() < until_s:
            strong = self._chance.random() < 0.5
            await self._read(self.table, self._chance.choice(self.keys), strong, LOOK_MS, frontend)
            await asyncio.sleep(self._chance.expovariate(5.0))

    async def _read(
        self, table: TableInfo, key: str, strong: bool, within_ms: float = READ_MS, through: FrontendHost | None = None
    ) -> bool:
        """Read the region of a key and hold all of its keys against the history; whether it could be read."""
        region_id = table.region_of({"key": key})
        keys = [k for k in self.keys if table.region_of({"key": k}) == region_id]
        frontend = through or self._frontend()
        before = self.history.before_read(keys, strong)

        async def read() -> list[list[pa.RecordBatch]]:
            with Pool(1 << 30).share(1 << 30) as budget:
                until_ms = frontend.clock.now_ms() + within_ms
                return await frontend.scanner.read(table, [region_id], Need(NAMES), strong, until_ms, budget)

        try:
            [batches] = await frontend.ask(read)
        except (MetasrvError, FrontendGone) as error:
            self._world.trace.note("client", "read_undone", key=key, why=str(error))
            return False
        self.history.after_read(before, _rows(batches), strong)
        return True

    # ---------------------------------------------------------------- the end

    async def finish(self, until_s: float) -> None:
        """All faults are over: every key is written once more, and read."""
        self._stopping = True
        assert self.table is not None
        loop = self._world.loop
        began_s = loop.time()
        await asyncio.gather(*self._writers, self._reader, *self._lookers)
        for key in self.keys:
            number = max(self.history.attempted[key]) + 1
            while not await self._write(self.table, key, number, self._frontend()):
                number += 1
                if loop.time() > until_s:
                    self._world.fail(f"{key} takes no writes {loop.time() - began_s:.0f} s after all faults ended")
                    return
        self.history.complete = await self.all_read(until_s, "all faults ended")

    async def all_read(self, until_s: float, since: str) -> bool:
        """P1: nothing is wrong, so everything acknowledged can be read, through any frontend; whether it could."""
        assert self.table is not None
        for key in self.keys:
            while not await self._read(self.table, key, strong=True):
                if self._world.loop.time() > until_s:
                    self._world.fail(f"{key} cannot be read after {since}")
                    return False
        return True


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
