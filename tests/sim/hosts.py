"""The machines of the simulated cluster, and the real programs that run on them."""

import json
import random
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import msgspec
from prometheus_client import CollectorRegistry

from datanode_agent.adapters.folder import DataFolder
from datanode_agent.config import DatanodeConfig
from datanode_agent.engine.config import EngineConfig
from datanode_agent.engine.engine import Engine
from datanode_agent.service import Agent
from datanode_agent.surroundings import Surroundings
from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.lanes.places import Limits
from groundwork.adapters.rpc import use_transport
from groundwork.core.errors import MetasrvError
from groundwork.sim.clock import SimClock
from groundwork.sim.objects import Faults, SimObjectStore
from groundwork.sim.processes import SimProcess
from groundwork.sim.workers import InlineWorkers
from metasrv.adapters.raft import EmbeddedRaft, RaftConfig, RaftLimits
from metasrv.config import MetasrvConfig, PolicyConfig, Timing
from metasrv.core.ports import Consensus, StateMachine
from metasrv.service import Service
from tests.sim.beats import TaskBeats
from tests.sim.disk import SimDisk
from tests.sim.owners import WatchedLog

if TYPE_CHECKING:
    from tests.sim.world import World

CLUSTER = "51" * 16
RESTART_S = 1.0  # what a service manager waits before it starts a program again
TIMING = Timing(lease_ms=3_000, beat_ms=900, election_ms_min=1_000, election_ms_max=2_000, tick_ms=100)
APPEND_PERIOD_MS = 330  # a third of the shortest election, and a little less
POLICY = PolicyConfig(unwell_ms=2_500, settle_ms=4_000)


class Sizes:
    """What differs from history to history: some have small limits, so that they are met."""

    def __init__(self, chance: random.Random) -> None:
        small = chance.random() < 0.3
        self.raft = RaftLimits(
            journal_entries_max=12 if small else 60, journal_tail_entries=2 if small else 10, chunk_bytes=2_000
        )
        self.engine = EngineConfig(
            memory_budget_bytes=1 << 20, flush_bytes=chance.choice((2_000, 6_000, 6_000)),
            flush_age_ms=chance.choice((1_000, 5_000, 5_000)), settle_ms=1_000, files_max=3, delete_grace_ms=2_000,
            manifests_kept=2, tick_ms=500, canary_ms=1_000, probe_ms=1_000, replay_objective_ms=2_000,
        )  # fmt: skip
        self.stop_deadline_ms = chance.choice((1_000, 1_000, 10_000))
        # The store may be down when everything is started for the first time, for longer than opens are tried.
        self.rough_start_s = chance.uniform(1.0, 6.0) if chance.random() < 0.05 else 0.0
        impatient = self.rough_start_s or chance.random() < 0.3
        self.lanes = Limits(settle_ms=chance.choice((1_000.0, 3_000.0))) if impatient else Limits()
        # Trims that come often meet sealers and readers of a lane that others have done with.
        self.policy = msgspec.structs.replace(POLICY, trim_every_ms=chance.choice((200, 1_000, 5_000)))


class NoHttp:
    """Pages that nobody asks for."""

    def __init__(self, app: object, address: str) -> None:
        pass

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""


class Host:
    """One machine: what survives the process, and the process while there is one."""

    def __init__(self, world: "World", name: str, number: int) -> None:
        self.world, self.name = world, name
        self.chance = random.Random(f"{world.seed}/{name}")
        self.faults = Faults()
        self.clock = SimClock(
            offset_ms=self.chance.uniform(0, 1e7),
            rate=self.chance.uniform(0.99, 1.01),
            wall_offset_ms=10**12,
            loop=world.loop,
        )
        self.process: SimProcess | None = None
        self.starts = 0
        self.wanted = True  # whether the service manager starts it again
        self.holds: Callable[[str, str, str], Awaitable[None]] | None = None  # a story's hand on its store calls
        self.cluster = CLUSTER  # as its configuration says
        self.at = ""  # where it listens, if not where its machine is named
        self.away: tuple[str, ...] = ()  # prefixes of keys that a story has out of its reach
        self.ends: list[str] = []  # how its programs ended by themselves
        self.may_refuse = False  # its configuration is wrong on purpose: that it does not start is no failure

    @property
    def up(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.alive

    def start(self) -> None:
        """Start the program."""
        if self.up:
            return
        self.starts += 1
        self.wanted = True
        process = self.process = SimProcess(self.world.loop, self.name, self.clock)
        process.call(use_transport, self.world.fabric.host(process))
        self.prepare(process)
        process.spawn(self._live(process), self.name)
        self.world.trace.note(self.name, "process_started", times=self.starts)

    def crash(self, power_lost: bool = False) -> None:
        """The process is gone: killed, or its machine lost power."""
        process = self.process
        if process is None or not process.alive:
            return
        if power_lost:
            self.world.fabric.vanish(self.name)
        process.crash()

    def store(self, process: SimProcess) -> SimObjectStore:
        """The object store as seen from here."""

        async def gate(operation: str, key: str, when: str) -> None:
            process.effect()
            if self.holds is not None:
                await self.holds(operation, key, when)

        return SimObjectStore(self.world.bucket, self.faults, self.chance.getrandbits(32), gate)

    def prepare(self, process: SimProcess) -> None:
        """Before the program starts."""

    async def run(self, process: SimProcess) -> str:
        """The program; how it ended."""
        raise NotImplementedError

    async def _live(self, process: SimProcess) -> None:
        try:
            ended = await self.run(process)
        except MetasrvError as error:
            ended = f"{type(error).__name__}: {error}"
            self.world.ended_badly(self, ended)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            ended = repr(error)
            self.world.trace.error(self.name, "".join(traceback.format_exception(error))[-2000:])
        self.ends.append(ended)
        self.world.trace.note(self.name, "process_ended", how=ended)
        process.crash()

    def gone(self, process: SimProcess) -> None:
        """Its service manager sees it and starts it again."""
        self.world.trace.note(self.name, "process_gone")
        if self.wanted:
            self.world.later(RESTART_S, self._again, process)

    def _again(self, process: SimProcess) -> None:
        if self.process is process and self.wanted:
            self.start()


class MetasrvHost(Host):
    """A replica of metasrv."""

    service: Service
    disk: SimDisk
    flipped = False  # a bit of its files: until it has started again, it must refuse to
    rejoin = False  # its operator's word for the next start
    told_to_rejoin = False

    @property
    def raft_folder(self) -> Path:
        """Where its journal and its snapshot are."""
        return self.world.folder / self.name / "raft"

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.at or f"{self.name}:4001"

    def prepare(self, process: SimProcess) -> None:
        """A disk that knows what was synced."""
        disk = self.disk = SimDisk(process, self.chance)
        disk.on_hang = lambda for_s: self._hangs(process, for_s)
        self.power_lost = False
        process.on_crash.append(lambda: disk.process_gone(self.power_lost))
        process.on_crash.append(lambda: self.gone(process))

    def _hangs(self, process: SimProcess, for_s: float) -> None:
        process.pause()
        self.world.later(for_s, process.resume)

    def crash(self, power_lost: bool = False) -> None:
        """See Host; with the power goes what was not synced."""
        self.power_lost = power_lost
        super().crash(power_lost)

    async def run(self, process: SimProcess) -> str:
        """metasrv/main.py's serve(), over simulated surroundings."""
        world = self.world
        rejoin, self.rejoin = self.rejoin, False
        self.told_to_rejoin |= rejoin
        config = MetasrvConfig(
            cluster_id=self.cluster, node_id=self.name, locality=world.locality(self.name),
            data_dir=str(world.folder / self.name), listen=self.address, http_listen=f"{self.name}:4101",
            peers={h.name: h.address for h in dict.fromkeys((*world.metasrvs, self))},
            object_store=ObjectStoreConfig(directory="/unused"), timing=TIMING, policy=world.sizes.policy,
        )  # fmt: skip

        def fatal(reason: str) -> Any:
            world.trace.note(self.name, "fatal", reason=reason)
            if "invariant" in reason:
                world.trace.error(self.name, reason)
            process.crash()

        def consensus(machine: StateMachine, server: grpc.aio.Server, registry: CollectorRegistry) -> Consensus:
            told = RaftConfig(
                cluster_id=self.cluster, node_id=self.name, peers=config.peers, data_dir=Path(config.data_dir) / "raft",
                election_ms_min=TIMING.election_ms_min, election_ms_max=TIMING.election_ms_max,
                append_period_ms=APPEND_PERIOD_MS, limits=world.sizes.raft, rejoin=rejoin,
            )  # fmt: skip
            world.checks.watch(self.name, machine)
            raft = EmbeddedRaft(told, machine, registry=registry, disk=self.disk, fatal=fatal)
            raft.register(server)
            return raft

        service = self.service = Service(config, self.clock, self.store(process), consensus, NoHttp)
        await service.start()
        if self.flipped and not self.told_to_rejoin:
            world.fail(f"{self.name} started on a file with a flipped bit")
        self.flipped = self.told_to_rejoin = False
        await service.failed()
        return "stopped"


class DatanodeHost(Host):
    """A datanode with its agent and its engine."""

    agent: Agent
    beats: TaskBeats | None = None  # of the program that runs
    engine: Engine | None = None  # of the same
    capacity_regions = 10_000

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.at or f"{self.name}:4002"

    def beats_for_s(self) -> float:
        """Since this process was told for the first time that it is registered; before, it cannot beat."""
        began_s = self.beats.began_s if self.beats is not None else None
        return 0.0 if began_s is None else self.world.loop.time() - began_s

    def prepare(self, process: SimProcess) -> None:
        """Its data folder, locked by the process."""
        self.beats = self.engine = None
        path = self.world.folder / self.name
        path.mkdir(exist_ok=True)
        identity = path / "folder.json"
        if not identity.exists():
            told = {"format": "datanode-folder", "version": 1, "cluster_id": self.cluster, "node_id": self.name}
            identity.write_text(json.dumps({**told, "folder_id": f"{self.chance.getrandbits(128):032x}"}))
        self._folder = DataFolder(path, self.cluster, self.name)
        process.on_crash.append(self._folder.close)
        process.on_crash.append(lambda: self.gone(process))

    async def run(self, process: SimProcess) -> str:
        """datanode_agent/main.py's serve(), over simulated surroundings."""
        world = self.world
        config = DatanodeConfig(
            cluster_id=self.cluster, node_id=self.name, locality=world.locality(self.name),
            data_dir=str(world.folder / self.name), listen=self.address, http_listen=f"{self.name}:4102",
            metasrv=tuple(h.address for h in world.metasrvs), object_store=ObjectStoreConfig(directory="/unused"),
            lanes=world.lanes, engine=world.sizes.engine, capacity_regions=self.capacity_regions,
            stop_deadline_ms=world.sizes.stop_deadline_ms,
        )  # fmt: skip

        def beats(on_heard: Callable[..., None], on_crash: Callable[..., None]) -> TaskBeats:
            self.beats = TaskBeats(config.metasrv, self.cluster, self.name, self.clock, on_heard)
            self.engine = self.agent._engine
            world.leases.watch(self, self.engine, self.beats)
            return self.beats

        around = Surroundings(self.clock, self._folder, beats, NoHttp, lambda: f"{self.chance.getrandbits(128):032x}")
        self._folder.open()
        self.agent = Agent(config, surroundings=around)
        store, workers = self.store(process), InlineWorkers()
        logs = WatchedLog(store, self.clock, workers, world.sizes.lanes, nonce=lambda: self.chance.randbytes(16))
        logs.owners = world.owners
        try:
            status = await self.agent.serve(store, logs, workers)
        finally:
            self._folder.close()
        if status:
            world.ended_badly(self, f"exit status {status}")
        return f"exit status {status}"


Work = Coroutine[Any, Any, Any]
