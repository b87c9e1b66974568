"""Operators: moves, drains and changes of leadership, asked for through the real admin client."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from groundwork.adapters.admin_client import AdminClient
from groundwork.adapters.replica_calls import ReplicaCalls
from groundwork.adapters.rpc import use_transport
from groundwork.core.errors import MetasrvError
from groundwork.sim.clock import SimClock
from groundwork.sim.processes import SimProcess
from tests.sim.hosts import CLUSTER

if TYPE_CHECKING:
    from tests.sim.hosts import MetasrvHost
    from tests.sim.world import World

T = TypeVar("T")
DEADLINE_MS = 6_000
STOPS_S = 2.0  # how long an operator waits for the owner to stop


class Operators:
    """One process with an admin client."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed}/operators")
        self._helping: set[str] = set()

    def start(self) -> None:
        """Begin."""
        clock = SimClock(loop=self._world.loop)
        process = self._process = SimProcess(self._world.loop, "operator-1", clock)
        process.call(use_transport, self._world.fabric.host(process))
        calls = ReplicaCalls([h.address for h in self._world.metasrvs], CLUSTER, None, clock)
        self.admin = AdminClient(calls, "operator")

    def _ask(self, what: str, asked: Awaitable[object]) -> None:
        self._process.spawn(self._asked(what, asked))

    async def _asked(self, what: str, asked: Awaitable[object]) -> None:
        try:
            await asked
        except MetasrvError as error:
            self._world.trace.note("operator", f"{what}_refused", why=error)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Let an operator do something."""
        return self._process.spawn(work)

    def _id(self) -> str:
        return f"{self._chance.getrandbits(64):016x}"

    def helps(self, host: "MetasrvHost") -> None:
        """Somebody reads why a replica refuses to start, and starts it once with --rejoin."""
        if host.name not in self._helping:
            self._helping.add(host.name)
            self._world.later(self._chance.uniform(0.2, 4.0), self._restart, host)

    def _restart(self, host: "MetasrvHost") -> None:
        self._helping.discard(host.name)
        self._world.trace.note("operator", "starts_with_rejoin", on=host.name)
        host.rejoin = True
        host.start()

    def transfer(self, to: str) -> None:
        """Hand leadership over."""
        self._ask("transfer", self.admin.transfer_leader(to, deadline_ms=DEADLINE_MS))

    def migrate(self) -> None:
        """Move a region or two, to a node or to where the planner wants them."""
        table = self._world.clients.table
        if table is None:
            return
        regions = self._chance.sample(table.region_ids, min(len(table.region_ids), self._chance.choice((1, 2))))
        to = self._chance.choice(["", *(h.name for h in self._world.datanodes)])
        self._ask("migrate", self.admin.migrate(regions, to, request_id=self._id(), deadline_ms=DEADLINE_MS))

    def migrate_and_cancel(self, after_s: float, race: bool) -> None:
        """Move a region, and think better of it; in a race, when its owner has stopped and the hand-over is next."""
        table = self._world.clients.table
        if table is not None:
            if race:
                after_s = self._chance.uniform(0.0, 3 * self._world.fabric.delay_s[1])
            self._ask("cancel", self._migrate_and_cancel(self._chance.choice(table.region_ids), after_s, race))

    async def _migrate_and_cancel(self, region_id: int, after_s: float, race: bool) -> None:
        plan = await self.admin.migrate([region_id], "", request_id=self._id(), deadline_ms=DEADLINE_MS)
        if race:
            stopped = asyncio.Event()
            self._world.trace.on_line["region_stopped"] = stopped.set
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOPS_S):
                    await stopped.wait()
        await asyncio.sleep(after_s)
        await self.admin.cancel(plan.procedure_id, request_id=self._id(), deadline_ms=DEADLINE_MS)

    def drain(self, name: str) -> None:
        """Move everything off a node."""
        self._ask("drain", self.admin.drain(name, request_id=self._id(), deadline_ms=DEADLINE_MS))

    def undrain(self, name: str) -> None:
        """Let the node have regions again."""
        self._ask("undrain", self.admin.drain(name, undo=True, request_id=self._id(), deadline_ms=DEADLINE_MS))
