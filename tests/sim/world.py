"""One simulated cluster: seed in, failures out. Everything that is random comes from the seed."""

import asyncio
import gc
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groundwork.core.check import on_violation
from groundwork.sim.clock import NothingLeftToDo
from groundwork.sim.network import Fabric
from groundwork.sim.objects import Bucket
from groundwork.sim.processes import ClusterLoop, Crashed, SimProcess, current_process
from metasrv.adapters.raft import library
from tests.sim.checks import Checks
from tests.sim.clients import Clients
from tests.sim.frontends import FrontendHost
from tests.sim.history import HEALED, ONE_DEAD, ONE_DEAD_AND_LEADER, OUTAGE_S_MAX, Bound
from tests.sim.hosts import TIMING, DatanodeHost, Host, MetasrvHost, Sizes
from tests.sim.leases import Leases
from tests.sim.nemesis import Nemesis
from tests.sim.operators import Operators
from tests.sim.outages import Outages
from tests.sim.owners import Owners
from tests.sim.raft.crashing_disk import PowerLost
from tests.sim.trace import Trace

DATANODES = {3: 66, 4: 25, 5: 4, 6: 3, 7: 2}  # how many, and out of how many histories of a hundred
BEGIN_S = 12.0
ALL_WELL_S = 4.0  # what a history waits for every node to be well, before one dies
SETTLE_S = OUTAGE_S_MAX + 6.0  # an operator comes to a replica that refuses to start, and it catches up


class World:
    """See the module docstring. `run()` once."""

    def __init__(self, seed: int, active_s: float | None = None) -> None:
        self.seed = seed
        self.chance = random.Random(f"{seed}/world")
        self.loop = ClusterLoop()
        self.trace = Trace(self.loop.time)
        self.failures: list[str] = []
        self.active_s = active_s if active_s is not None else self.chance.uniform(4, 12)
        self.lanes = self.chance.choice((1, 1, 2))
        self.regions = self.chance.choice((1, 2, 4))
        fast = self.chance.uniform(0.0002, 0.005)
        self.fabric = Fabric(self.loop, random.Random(f"{seed}/network"), (fast, fast * self.chance.choice((1.5, 10))))
        self.bucket = Bucket()
        self.sizes = Sizes(random.Random(f"{seed}/sizes"))
        self.checks = Checks(self)
        self.owners = Owners(self)
        self.leases = Leases(self)
        self.outages = Outages(self)
        self.metasrvs = [MetasrvHost(self, f"metasrv-{n}", n) for n in (1, 2, 3)]
        [nodes] = self.chance.choices(*zip(*DATANODES.items(), strict=True))
        if nodes > 4:
            self.regions = 2 * nodes
        self.datanodes = [DatanodeHost(self, f"dn-{n}", n) for n in range(1, nodes + 1)]
        self.frontends = [FrontendHost(self, f"frontend-{n}", n) for n in (1, 2)]
        self.clients = Clients(self)
        self.operators = Operators(self)
        self.nemesis = Nemesis(self)
        self.latency_ms = (1.0, self.chance.choice((3.0, 20.0)))
        for host in self.hosts:
            host.faults.latency_ms = self.latency_ms
        self.folder = Path()
        self.clocks_lie = False  # a lease read's age is bounded by clocks; P1 and P2 are not
        if self.nemesis.about_zombies:
            self.active_s = max(self.active_s, 9.0)
        if self.nemesis.tells_a_story:
            self.active_s = max(self.active_s, 8.0)
        self.calm_at = self.chance.uniform(0.3, 0.8) if self.chance.random() < 0.3 else 1.0
        self.one_dead = self.calm_at < 1.0 and not self.nemesis.about_something and self.chance.random() < 0.5
        if self.one_dead:
            self.active_s = min(self.active_s, 4.5)
        self.settled_s = 0.0  # from the end of all faults until every region served and every replica was up
        self.lease_s = TIMING.lease_ms / 1000

    @property
    def hosts(self) -> list[Host]:
        """The machines of metasrv and the datanodes: those that use the store, and that agree on something."""
        return [*self.metasrvs, *self.datanodes]

    @property
    def machines(self) -> list[Host]:
        """All that run a program under test, the frontends too."""
        return [*self.hosts, *self.frontends]

    def locality(self, name: str) -> str:
        """Two sites with datanodes and a frontend each; the third runs a metasrv only."""
        kind, _, number = name.rpartition("-")
        site = int(number) if kind == "metasrv" else 1 + int(number) % 2
        return f"site-{site}/zone-a"

    def later(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        """Do something of the simulator's own, in the simulator's own context."""
        self.loop.call_later(seconds, action, *args, context=self._context)

    def fail(self, what: str) -> None:
        """A checker found something."""
        if self.trace.open:
            self.failures.append(f"{self.loop.time():.4f} {what}")
            self.trace.note("checker", f"FAILURE {what}")

    def ended_badly(self, host: Host, how: str) -> None:
        """A program ended by itself. Its service manager starts it again; some ends are never right."""
        if host.may_refuse:
            return
        if how.startswith("Damaged") and isinstance(host, MetasrvHost) and host.flipped:
            self.operators.helps(host)
        elif how.startswith(("Damaged", "ForeignCluster", "BadInput")):
            self.fail(f"{host.name} ended: {how}")

    # ---------------------------------------------------------------- one run

    def run(self) -> "World":
        """The whole history."""
        import contextvars

        self._context = contextvars.copy_context()
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="sim-", dir=base))
        self.trace.folder = str(self.folder)
        asyncio.set_event_loop(self.loop)
        self.trace.capture()
        self.owners.watch()
        on_violation(self._violated)
        library.use_clock(self._library_now_s)
        library.use_random(random.Random(f"{self.seed}/raft"))
        self.loop.set_exception_handler(self._unhandled)
        self._collects = gc.isenabled()
        gc.disable()
        try:
            self.loop.run_until_complete(self._main())
        except NothingLeftToDo as error:
            self.fail(f"standstill: {error}")
        finally:
            self._end()
        self.failures += [f"error line: {e}" for e in self.trace.errors[:5]]
        return self

    async def _main(self) -> None:
        for host in self.machines:
            host.start()
        self.clients.start()
        self.operators.start()
        self.outages.start()
        if self.sizes.rough_start_s:
            self.trace.fault("rough_start", "store", for_s=self.sizes.rough_start_s)
            self.nemesis.befell("*", self.sizes.rough_start_s)
            for host in self.hosts:
                host.faults.unavailable = 1.0
                self.later(self.sizes.rough_start_s, self.nemesis.store.heal, host)
        if not await self.holds_within(self.clients.prepared, BEGIN_S):
            self.fail(f"the cluster did not begin within {BEGIN_S} s: {self.clients.why}")
            return
        await self._what_happens()
        self.nemesis.rest()
        self.clients.history.calm(self.clients.keys)
        self.clients.calm.set()
        until_s = self.loop.time() + SETTLE_S
        await self.clients.finish(until_s)
        await self.holds_within(self.checks.converged, until_s - self.loop.time())
        self.settled_s = SETTLE_S - (until_s - self.loop.time())
        self.checks.at_the_end()
        self.clients.history.at_the_end()

    async def _what_happens(self) -> None:
        """What the nemesis likes, for so long."""
        first_s = self.active_s * self.calm_at
        self.nemesis.start(first_s)
        await asyncio.sleep(first_s)
        if self.calm_at < 1.0:
            await self._calm()
            if self.one_dead:
                await self._one_stays_dead()
            self.nemesis.start(self.active_s - first_s)
            await asyncio.sleep(self.active_s - first_s)

    async def _calm(self) -> None:
        """In mid-history: everything heals, and goes on once every key was written and read again, within the bound."""
        self.nemesis.rest()
        until_s = self.loop.time() + HEALED.seconds + 1.0
        await self._all_written(HEALED)
        await self.clients.all_read(until_s, "everything healed in mid-history")
        await self.holds_within(lambda: not self.checks.astray(), until_s - self.loop.time())
        for told in self.checks.astray():
            self.fail(f"{told}, {HEALED.seconds + 1.0:.1f} s after everything healed in mid-history")

    async def _one_stays_dead(self) -> None:
        """Nothing is wrong but that one datanode is dead (P3), and perhaps the leader died with it (P5)."""
        if self.clients.history.waited_for or not await self.holds_within(self.checks.all_well, ALL_WELL_S):
            return
        host, with_leader = self.nemesis.dies_for_good()
        await self._all_written(ONE_DEAD_AND_LEADER if with_leader else ONE_DEAD)
        host.start()

    async def _all_written(self, bound: Bound) -> None:
        history = self.clients.history
        history.calm(self.clients.keys, bound)
        self.clients.calm.set()
        if not await self.holds_within(lambda: not history.waited_for, bound.seconds + 0.1):
            for key, since_s in history.waited_for.items():
                history.too_long(key, self.loop.time() - since_s)
        self.clients.calm.clear()

    async def holds_within(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait until it holds, at most so long; whether it did."""
        until_s = self.loop.time() + within_s
        while self.loop.time() < until_s:
            if holds():
                return True
            await asyncio.sleep(0.05)
        return False

    def _end(self) -> None:
        """Let every task come to its end, unseen, and forget the run."""
        self.virtual_s = self.loop.time()
        self.trace.open = False
        for host in self.machines:
            host.wanted = False
        processes = self.loop.processes
        for process in processes:
            if process.alive:
                process.crash()
        for process in processes:
            process.reap()
        try:
            for _ in range(50):
                self.loop.run_until_complete(asyncio.sleep(0.2))
                waiting = [t for t in asyncio.all_tasks(self.loop) if not t.done()]
                if not waiting:
                    break
                for task in waiting:
                    task.cancel()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        except NothingLeftToDo:
            self.trace.note("world", "left_over")
        library.use_clock()
        self.owners.release()
        on_violation(None)
        asyncio.set_event_loop(None)
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._collects:
            gc.enable()
        self.trace.release()

    def _library_now_s(self) -> float:
        process = current_process()
        return process.clock.now_ms() / 1000 if process is not None else self.loop.time()

    def _violated(self, message: str) -> None:
        """Whoever catches the exception: a program would have ended itself here."""
        process = current_process()
        told = "".join(traceback.format_stack(limit=8)[:-2])[-1500:]
        self.trace.error(process.name if process is not None else "world", f"invariant violated: {message} {told}")

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, (Crashed, PowerLost)):
            return
        process: SimProcess | None = current_process()
        if process is not None and not process.alive:
            return
        if self.trace.open:
            told = "".join(traceback.format_exception(error))[-1500:] if error else ""
            self.trace.error("loop", f"{context.get('message')} {told}")
