"""Three real replicas in one process: real disks, real gRPC streams on loopback, real time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from groundwork.adapters import rpc
from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import NotLeader, Unknown
from metasrv.adapters.raft import EmbeddedRaft, RaftConfig, RaftLimits
from metasrv.core.ports import Applied, Consensus, Leadership

CLUSTER = "a" * 32
NAMES = ("metasrv-1", "metasrv-2", "metasrv-3")
PATIENCE_S = 30.0


class Ledger:
    """A state machine that remembers every command. `repeated` are those that were proposed again after an Unknown."""

    def __init__(self, repeated: Container[bytes] = ()) -> None:
        self.entries: list[tuple[int, bytes]] = []
        self._repeated = repeated

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
        """What was applied, in order; what was proposed again counts once, as by a request id."""
        told = [command for _, command in self.entries]
        return [c for at, c in enumerate(told) if c not in self._repeated or c not in told[:at]]


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
        self.repeated: set[bytes] = set()

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
        self.machines[name] = Ledger(self.repeated)
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
        """Commit through whoever leads, which may be another one at any time: see propose_somewhere."""
        applied, _ = await propose_somewhere(self.nodes.values(), command, self.repeated)
        return applied

    async def hand_over(self) -> tuple[EmbeddedRaft, EmbeddedRaft]:
        """Hand leadership from one replica to another; both. A turn in which it moved by itself proves nothing."""
        while True:
            old = await self.leader()
            new = next(node for node in self.nodes.values() if node is not old)
            told: list[Leadership] = []
            new.on_leadership(told.append)
            term = old.leadership().term
            try:
                await old.transfer(new.config.node_id)
            except NotLeader:
                assert old.leadership() != (term, old.config.node_id, True), "it leads and says that it does not"
                continue
            except Unknown:
                continue  # the follower did not take it in time, and the old one still leads
            await until(lambda told=told: self._leaders() or any(of.is_leader for of in told), "a leader")
            if any(of.is_leader and of.term == term + 1 for of in told):
                return old, new

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


async def propose_somewhere(
    nodes: Iterable[Consensus], command: bytes, repeated: set[bytes]
) -> tuple[Applied, Consensus]:
    """Commit through whoever leads, and who that was. Elections are legitimate at any time on a busy machine.

    NotLeader is certainly not applied. After Unknown the command is proposed again, and noted in `repeated`: it may be
    applied twice then, which a state machine tells by its request id.
    """
    candidates = list(nodes)
    while True:
        leader = await leader_of(candidates)
        try:
            return await leader.propose(command), leader
        except NotLeader:
            await asyncio.sleep(0.01)
        except Unknown:
            repeated.add(command)
