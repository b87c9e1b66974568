"""The frontends: a machine each, with a route cache, faults and partitions of its own. Users ask either of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from groundwork.adapters.route_client import RouteClient
from groundwork.sim.processes import SimProcess
from metasrv_frontend.adapters.datanodes import Datanodes
from metasrv_frontend.adapters.route_waits import RouteWaits
from metasrv_frontend.adapters.scanner import Scanner
from metasrv_frontend.adapters.writer import Writer
from metasrv_frontend.metrics import Metrics
from tests.sim.hosts import CLUSTER, Host

if TYPE_CHECKING:
    from tests.sim.world import World

T = TypeVar("T")


class FrontendGone(Exception):
    """The frontend died over a request: nobody knows what became of it."""


class FrontendHost(Host):
    """A frontend's write and scan path; its HTTP is not simulated."""

    routes: RouteClient
    writer: Writer
    scanner: Scanner
    ready = False

    def __init__(self, world: "World", name: str, number: int) -> None:
        super().__init__(world, name, number)
        self._asked: dict[asyncio.Future[Any], None] = {}

    def prepare(self, process: SimProcess) -> None:
        """Its users learn when it dies."""
        self.ready = False
        process.on_crash.append(self._tell_users)
        process.on_crash.append(lambda: self.gone(process))

    async def run(self, process: SimProcess) -> str:
        """What metasrv_frontend/service.py puts together, but for HTTP."""
        metrics = Metrics()
        self.routes = RouteClient([h.address for h in self.world.metasrvs], CLUSTER, None, self.clock, self.name)
        waits, nodes = RouteWaits(self.routes, self.clock), Datanodes(CLUSTER, None)
        self.writer = Writer(self.routes, waits, nodes, self.clock, metrics)
        self.scanner = Scanner(self.routes, waits, nodes, self.clock, metrics)
        await self.routes.start()
        self.ready = True
        await asyncio.Event().wait()
        return "stopped"

    async def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A user's request, handled in this process. Raises FrontendGone, and what the work raises."""
        process = self.process
        if process is None or not process.alive or not self.ready:
            raise FrontendGone(self.name)
        answer: asyncio.Future[T] = self.world.loop.create_future()
        self._asked[answer] = None

        def done(task: "asyncio.Task[T]") -> None:
            self._asked.pop(answer, None)
            if answer.done() or task.cancelled():
                return
            error = task.exception()
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        process.spawn(work()).add_done_callback(done)
        return await answer

    def _tell_users(self) -> None:
        self.ready = False
        asked, self._asked = self._asked, {}
        for answer in asked:
            if not answer.done():
                answer.set_exception(FrontendGone(self.name))
