"""Three hardened replicas in hand: every message delivered, held or lost by the test that tells the story."""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from groundwork.core.errors import MetasrvError
from metasrv.adapters.raft import library
from metasrv.adapters.raft.config import RaftConfig, RaftLimits
from metasrv.adapters.raft.metrics import RaftMetrics
from metasrv.adapters.raft.replica import Replica
from metasrv.core.ports import Applied
from protos.raft.v1 import raft_pb2 as pb
from tests.integration.raft.cluster import Ledger
from tests.sim.raft.crashing_disk import CrashingDisk

CLUSTER = "5" * 32
A, B, C = NAMES = ("a", "b", "c")


class Trio:
    """The replicas a, b and c on a virtual clock. Messages wait in `wires[from, to]` until they are delivered."""

    def __init__(self, folder: Path, peers: tuple[str, ...] = NAMES, **limits: Any) -> None:
        self.now, self.folder, self.peers, self.limits = 1000.0, folder, peers, limits
        library.use_clock(lambda: self.now)
        library.use_random(random.Random(1))
        self.wires: dict[tuple[str, str], deque[pb.Message]] = {(a, b): deque() for a in peers for b in peers if a != b}
        self.replicas: dict[str, Replica] = {}
        self.machines: dict[str, Ledger] = {}
        self.disks: dict[str, CrashingDisk] = {}
        for name in peers:
            self.boot(name)

    def boot(self, name: str, rejoin: bool = False) -> Replica:
        """Start a replica on what its disk holds, linked to all that run."""
        config = RaftConfig(
            cluster_id=CLUSTER,
            node_id=name,
            peers={peer: f"unused:{number}" for number, peer in enumerate(self.peers)},
            data_dir=self.folder / name,
            election_ms_min=1000,
            election_ms_max=2000,
            append_period_ms=100,
            rejoin=rejoin,
            limits=RaftLimits(**self.limits),
        )
        self.machines[name] = Ledger()
        self.disks[name] = CrashingDisk(random.Random(7))

        def send(peer: str, messages: list[pb.Message]) -> None:
            self.wires[name, peer].extend(pb.Message.FromString(message.SerializeToString()) for message in messages)

        replica = Replica(config, self.machines[name], send, RaftMetrics(CollectorRegistry()), self.disks[name])
        for peer, other in self.replicas.items():
            replica.link(peer)
            other.link(name)
        self.replicas[name] = replica
        return replica

    def crash(self, name: str) -> None:
        """Power off: unsynced bytes, links and messages on them are gone."""
        del self.replicas[name]
        self.disks[name].lose_unsynced()
        for pair, wire in self.wires.items():
            if name in pair:
                wire.clear()
        for other in self.replicas.values():
            other.unlink(name)

    def deliver(self, sender: str, receiver: str, count: int | None = None, turn: bool = True) -> list[pb.Message]:
        """Let the next `count` messages of a wire arrive (None: all that wait now); they are returned."""
        wire = self.wires[sender, receiver]
        taken = [wire.popleft() for _ in range(len(wire) if count is None else count)]
        if receiver in self.replicas:
            self.replicas[receiver].receive(sender, taken)
            if turn:
                self.replicas[receiver].turn()
        return taken

    def pump(self, *names: str, seconds: float = 0.5) -> None:
        """Let time pass and everything between `names` (default: all that run) arrive."""
        among = [name for name in (names or NAMES) if name in self.replicas]
        for _ in range(max(1, round(seconds / 0.05))):
            self.now += 0.05
            for name in among:
                self.replicas[name].turn()
            for _ in range(3):
                for sender in among:
                    for receiver in among:
                        if sender != receiver and self.wires[sender, receiver]:
                            self.deliver(sender, receiver)

    def elect(self, name: str, *names: str) -> Replica:
        """Let `name` win an election among `names` (default: all)."""
        among = names or tuple(self.replicas)
        self.pump(*among, seconds=0.1)
        self.now += 1.1
        for other in among:
            self.replicas[other].core.postpone_election(5.0)
        self.replicas[name].core.start_election()
        for _ in range(10):
            self.pump(*among, seconds=0.05)
            if self.replicas[name].leadership().is_leader:
                return self.replicas[name]
        raise AssertionError(f"{name} was not elected")

    def propose(self, name: str, *commands: bytes) -> list[Applied | MetasrvError]:
        """Hand commands to a replica; the answers appear in the list."""
        answers: list[Applied | MetasrvError] = []
        for command in commands:
            self.replicas[name].propose(command, answers.append)
        return answers


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    """Three replicas, nobody elected yet."""
    made = Trio(tmp_path)
    yield made
    for name in list(made.replicas):
        made.crash(name)
    library.use_clock()


def kinds(messages: list[pb.Message]) -> list[str]:
    """What kinds of messages these are."""
    return [str(message.WhichOneof("kind")) for message in messages]
