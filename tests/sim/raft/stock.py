"""The library as it comes in the same world: its own journal, snapshots and message rules, on a fake transport only.

Its processes are killed, never its machines: what it wrote survives, synced or not. That is kinder than what the
hardened replica goes through.
"""

from collections.abc import Callable
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.transport import Transport

from metasrv.adapters.raft.library import Peer
from tests.sim.raft.crashing_disk import CrashingDisk
from tests.sim.raft.world import NAMES, Machine, World


class _Wire(Transport):  # type: ignore[misc]
    """Sends into the world at once, as the library's own transport does."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(None, None, [])
        self._world, self._name = world, name
        self.linked: set[str] = set()

    def send(self, node: Any, message: Any) -> bool:
        """Send at once."""
        if node.id not in self.linked:
            return False
        self._world.send(self._name, node.id, message)
        return True


class _Machine(SyncObj):  # type: ignore[misc]
    """One replicated method, applied through the machine that checks indices."""

    def __init__(self, machine: Machine, *args: Any, **kwargs: Any) -> None:
        self.machine = machine
        super().__init__(*args, **kwargs)
        self.state: dict[bytes, int] = {}

    @replicated  # type: ignore[untyped-decorator]
    def put(self, command: bytes) -> int:
        """The one replicated command."""
        index = int(self.raftLastApplied) + 1
        self.machine.last = index - 1  # after a snapshot the library does not say where it stands
        self.machine.apply(index, command)
        self.state[command] = index
        return index


class Stock:
    """One stock replica as the world wants it."""

    def __init__(self, world: World, name: str, machine: Machine, disk: CrashingDisk, rejoin: bool) -> None:
        world.clock_step_s, world.stop_early = 5e-4, False
        folder = world.folder / name
        folder.mkdir(exist_ok=True)
        self._machine = machine
        self._wire = _Wire(world, name)
        self._core = _Machine(
            machine,
            Peer(name),
            [Peer(peer) for peer in NAMES if peer != name],
            SyncObjConf(
                autoTick=False,
                journalFile=str(folder / "journal"),
                fullDumpFile=str(folder / "dump"),
                useFork=False,
                raftMinTimeout=1,
                raftMaxTimeout=2,
                appendEntriesPeriod=0.1,
                leaderFallbackTimeout=2,
                appendEntriesBatchSizeBytes=2 * world.settings["command_bytes_max"] + 100,
                logCompactionMinEntries=world.settings["journal_entries_max"],
                logCompactionMinTime=10**9,
                logCompactionBatchSize=200,
                pollerType="select",
            ),
            transport=self._wire,
        )
        self._core.doTick(0)

    def deliver(self, peer: str, parcel: Any) -> None:
        """A message arrives."""
        self._wire._onMessageReceived(Peer(peer), parcel)

    def link(self, peer: str) -> None:
        """A connection is up."""
        self._wire.linked.add(peer)
        self._wire._onNodeConnected(Peer(peer))

    def unlink(self, peer: str) -> None:
        """A connection broke."""
        self._wire.linked.discard(peer)
        self._wire._onNodeDisconnected(Peer(peer))

    def abandon(self) -> None:
        """The process is gone, its files are closed as by the kernel."""
        file = self._core._SyncObj__raftLog._FileJournal__journalFile
        file._ResizableFile__mm.close()
        file._ResizableFile__f.close()

    def turn(self) -> None:
        """One tick."""
        self._core.doTick(0)
        self._machine.state = self._core.state

    def propose(self, command: bytes, acked: Callable[[int], None]) -> None:
        """Propose; only success is reported."""
        self._core.put(command, callback=lambda index, error: None if error else acked(index))

    def hand_over(self, to: str) -> bool:
        """Not asked of it."""
        return False

    def confirm(self, answer: Callable[[bool], None]) -> None:
        """It has no such thing."""
        answer(False)  # it has no such thing

    def leads(self) -> bool:
        """Whether it leads."""
        return bool(self._core._isLeader())

    def term(self) -> int:
        """The term."""
        return int(self._core.raftCurrentTerm)

    def applied(self) -> int:
        """The last applied index."""
        return int(self._core.raftLastApplied)

    def settled(self) -> bool:
        """It has no rejoining."""
        return False
