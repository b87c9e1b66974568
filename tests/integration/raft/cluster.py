"""Three real replicas in one process: real disks, real gRPC streams on loopback, real time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from groundwork.adapters import rpc
from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import NotLeader
from metasrv.adapters.raft import EmbeddedRaft, RaftConfig, RaftLimits
from metasrv.core.ports import Applied, Consensus

CLUSTER = "a" * 32
NAMES = ("metasrv-1", "metasrv-2", "metasrv-3")
PATIENCE_S = 30.0


class Ledger:
    """A state machine that remembers every command."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []

    def apply(self, revision: int, command: bytes) -> object:
        """Remember it."""
        self.entries.append((revision, command))
        return (b"outcome of", command)

    def snapshot(self) -> Iterator[bytes]:
        """All of it, frozen."""
        frozen = list(self.entries)
        return (revision.to_bytes(8, "big") + command for revision, command in frozen)

    def restore(self, slices: Iterable[bytes]) -> None:
        """Take over a snapshot."""
        self.entries = [(int.from_bytes(piece[:8], "big"), piece[8:]) for piece in slices]

    @property
    def commands(self) -> list[bytes]:
        """What was applied, in order."""
        return [command for _, command in self.entries]


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition that must come true; the bound is only there to end a broken run."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        await asyncio.sleep(0.005)


class Cluster:
    """Replicas that can be started, stopped and dropped dead one by one; each has a server of its own."""

    def __init__(self, folder: Path, tls: dict[str, TlsConfig] | None = None, **limits: Any) -> None:
        self.folder, self.tls = folder, tls or {}
        self.limits = RaftLimits(**limits)
        self.peers: dict[str, str] = {}
        self.servers: dict[str, grpc.aio.Server] = {}
        self.nodes: dict[str, EmbeddedRaft] = {}
        self.machines: dict[str, Ledger] = {}
        self.fatal: list[str] = []

    def listen(self, names: Iterable[str] = NAMES) -> None:
        """Bind new ports; what starts from now on is told of these."""
        for name in names:
            self.servers[name] = rpc.aio_server()
            port = rpc.listen(self.servers[name], "127.0.0.1:0", self.tls.get(name))
            self.peers[name] = f"127.0.0.1:{port}"

    async def start(self, name: str, **more: Any) -> EmbeddedRaft:
        """Start one replica on what its folder holds."""
        config = RaftConfig(
            cluster_id=CLUSTER,
            node_id=name,
            peers=dict(self.peers),
            data_dir=self.folder / name,
            tls=self.tls.get(name),
            limits=self.limits,
            **{"election_ms_min": 300, "election_ms_max": 600, "append_period_ms": 50, **more},
        )
        self.machines[name] = Ledger()
        node = EmbeddedRaft(config, self.machines[name], fatal=self.fatal.append)
        node.register(self.servers[name])
        await self.servers[name].start()
        await node.start()
        self.nodes[name] = node
        return node

    async def start_all(self) -> None:
        """All three, on new ports."""
        self.listen()
        for name in NAMES:
            await self.start(name)

    async def stop(self, name: str) -> None:
        """Stop one in an orderly way."""
        await self.nodes.pop(name).stop()
        await self.servers.pop(name).stop(None)

    async def stop_all(self) -> None:
        """Stop whatever runs."""
        for name in list(self.nodes):
            await self.stop(name)
        for name in list(self.servers):
            await self.servers.pop(name).stop(None)

    async def leader(self) -> EmbeddedRaft:
        """The leader, once there is one."""
        await until(lambda: self._leaders(), "a leader")
        return self._leaders()[0]

    async def propose(self, command: bytes) -> Applied:
        """Commit through whoever leads: it may move at any time, and NotLeader means not applied."""
        while True:
            leader = await self.leader()
            try:
                return await leader.propose(command)
            except NotLeader:
                await asyncio.sleep(0.01)

    def _leaders(self) -> list[EmbeddedRaft]:
        return [node for node in self.nodes.values() if node.leadership().is_leader]

    async def same_everywhere(self) -> list[bytes]:
        """Wait until all running replicas have applied the same; what that is."""
        return await self.same_everywhere_of(*self.nodes)

    async def same_everywhere_of(self, *names: str) -> list[bytes]:
        """Wait until these replicas have applied the same, and all that the leader has; what that is."""
        await until(lambda: len({tuple(self.machines[name].entries) for name in names}) == 1, "the same state")
        return self.machines[names[0]].commands


def run(folder: Path, story: Callable[[Cluster], Awaitable[None]], **options: Any) -> Cluster:
    """Tell a story about a cluster, and clear up."""

    async def told() -> Cluster:
        cluster = Cluster(folder, **options)
        try:
            await story(cluster)
        finally:
            await cluster.stop_all()
        return cluster

    return asyncio.run(told())


async def leader_of(nodes: Iterable[Consensus]) -> Consensus:
    """The one that leads, once there is one."""
    candidates = list(nodes)
    await until(lambda: any(node.leadership().is_leader for node in candidates), "a leader")
    return next(node for node in candidates if node.leadership().is_leader)
