"""The hardened replica in the simulated world: the real one, with frames as bytes on its links."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from groundwork.core.errors import MetasrvError
from metasrv.adapters.raft import codec
from metasrv.adapters.raft.config import RaftConfig, RaftLimits
from metasrv.adapters.raft.journal import Standing
from metasrv.adapters.raft.metrics import RaftMetrics
from metasrv.adapters.raft.replica import Replica
from metasrv.core.ports import Applied
from protos.raft.v1 import raft_pb2 as pb
from tests.sim.raft.crashing_disk import CrashingDisk
from tests.sim.raft.world import NAMES, Machine, World

CLUSTER = "5" * 32


class Hardened:
    """metasrv.adapters.raft.replica.Replica as the world wants it."""

    def __init__(self, world: World, name: str, machine: Machine, disk: CrashingDisk, rejoin: bool) -> None:
        self._world, self._name = world, name
        self._sent = 0
        config = RaftConfig(
            cluster_id=CLUSTER,
            node_id=name,
            peers={peer: f"unused:{number}" for number, peer in enumerate(NAMES)},
            data_dir=world.folder / name,
            election_ms_min=1000,
            election_ms_max=2000,
            append_period_ms=100,
            rejoin=rejoin,
            limits=RaftLimits(**world.settings),
        )
        self.replica = Replica(config, machine, self._send, RaftMetrics(CollectorRegistry()), disk)

    def _send(self, peer: str, messages: list[pb.Message]) -> None:
        self._sent += 1
        frame = codec.frame(CLUSTER, self._name, peer, messages)
        self._world.send(self._name, peer, frame.SerializeToString())

    def deliver(self, peer: str, parcel: Any) -> None:
        """A frame arrives, as bytes."""
        frame = pb.Frame.FromString(parcel)
        codec.check_frame(frame, CLUSTER, peer, self._name)
        self.replica.receive(peer, frame.messages)

    def link(self, peer: str) -> None:
        """A stream is up."""
        self.replica.link(peer)

    def unlink(self, peer: str) -> None:
        """A stream broke."""
        self.replica.unlink(peer)

    def abandon(self) -> None:
        """The process is gone; its disk closes what was open."""

    def turn(self) -> None:
        """One turn. One that was said to be idle says, writes and changes nothing: in the product it is not taken."""
        time_stands = not self._world.clock_step_s  # else a deadline may pass between the question and the turn
        idle, before = time_stands and self.replica.idle, self._state()
        self.replica.turn()
        assert not idle or self._state() == before, f"an idle turn of {self._name}: {before} became {self._state()}"

    def _state(self) -> tuple[object, ...]:
        replica, core, journal = self.replica, self.replica.core, self.replica.journal
        log = (journal.first_index, journal.last_index, journal.size_bytes, journal.standing, core.raftCommitIndex)
        return (self._sent, replica.busy, replica.leadership(), core.leads, core.raftLastApplied, *log)

    def propose(self, command: bytes, acked: Callable[[int], None]) -> None:
        """Propose; only success is reported."""

        def answer(result: Applied | MetasrvError) -> None:
            if isinstance(result, Applied):
                acked(result.revision)

        self.replica.propose(command, answer)

    def hand_over(self, to: str) -> bool:
        """Ask a follower to take over."""
        return self.replica.hand_over(to)

    def confirm(self, answer: Callable[[bool], None]) -> None:
        """Ask for a round."""
        self.replica.confirm(answer)

    def leads(self) -> bool:
        """Whether it leads, its no-op applied."""
        return self.replica.leadership().is_leader

    def term(self) -> int:
        """The term."""
        return self.replica.core.term

    def applied(self) -> int:
        """The last applied index."""
        return int(self.replica.core.raftLastApplied)

    def settled(self) -> bool:
        """Whether its votes count, durably, and it holds a part of the history."""
        journal = self.replica.journal
        return journal.standing is Standing.JOINED and journal.last_index > 1 and not journal.dirty
