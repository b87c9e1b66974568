"""What the nemesis does to the disks of metasrv's replicas.

A lost disk and a damaged one are as many as Raft bears: one at a time, and only while what the two others have on their
disks is whole. What the design cannot tell from something harmless is not made: a flip in a journal's last frame looks
like a tail that a power loss tore, and a flip under a live process is met when the file is read again.
"""

import shutil
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from groundwork.core.errors import Damaged
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.journal import Journal, Standing, _frame_at

if TYPE_CHECKING:
    from tests.sim.hosts import MetasrvHost
    from tests.sim.nemesis import Nemesis

_MAGIC_BYTES, _VERSION_BYTES = 8, 2
_FRAME_BYTES = struct.calcsize("<4sIIQ")


class DiskFaults:
    """Faults of the disks under journals and snapshots."""

    def __init__(self, nemesis: "Nemesis") -> None:
        self._nemesis = nemesis
        self._chance = nemesis.chance
        self.kinds: list[Callable[[], None]] = [self.full, self.fails, self.hangs, self.lost, self.flips]

    def _one(self) -> "MetasrvHost":
        nemesis = self._nemesis
        return self._chance.choice((nemesis.leader(), self._chance.choice(nemesis.world.metasrvs)))

    def heal(self, host: "MetasrvHost") -> None:
        """The disk is well."""
        if hasattr(host, "disk"):
            host.disk.full = host.disk.fail_syncs = False
            host.disk.hang_s = 0.0

    def full(self) -> None:
        """T10: a replica's disk is full for a while."""
        host = self._one()
        if host.up:
            for_s = self._nemesis.for_s()
            self._nemesis.fault("disk_full", host.name, for_s)
            host.disk.full = True
            self._nemesis.later(for_s, self.heal, host)

    def fails(self) -> None:
        """A sync fails: the replica ends itself, and is started again."""
        host = self._chance.choice(self._nemesis.world.metasrvs)
        if host.up:
            self._nemesis.fault("disk_fails", host.name)
            host.disk.fail_syncs = True

    def hangs(self) -> None:
        """T5: the next sync does not return for a while, and the process hangs in it; its connections stay."""
        host = self._one()
        if host.up:
            for_s = self._nemesis.for_s()
            self._nemesis.fault("disk_hangs", host.name, for_s)
            host.disk.hang_s = for_s

    # ---------------------------------------------------------------- one of three

    def lost(self) -> None:
        """A replica starts again with an empty disk: it takes part only once it has caught up."""
        host = self._one()
        if self._others_whole(host):
            self._stop("disk_lost", host)
            shutil.rmtree(host.raft_folder, ignore_errors=True)

    def flips(self) -> None:
        """A bit of a replica's journal or snapshot flips while it is down: it refuses to start, its operator helps."""
        host = self._one()
        if not self._others_whole(host) or not (host.raft_folder / "journal").exists():
            return
        self._stop("bit_flip", host)
        path, end = host.raft_folder / "journal", 0
        snapshot = host.raft_folder / "snapshot"
        if snapshot.exists() and self._chance.random() < 0.5:
            path, end = snapshot, snapshot.stat().st_size
        data = bytearray(path.read_bytes())
        end = end or _last_frame(bytes(data))
        # The lowest bits of a version say that the file is older: nothing is misread then.
        at = self._chance.choice([n for n in range(end) if not 0 <= n - _MAGIC_BYTES < _VERSION_BYTES])
        data[at] ^= 1 << self._chance.randrange(8)
        path.write_bytes(data)
        host.flipped = True
        self._nemesis.world.trace.note("nemesis", "flipped", on=host.name, file=path.name, at=at, of=len(data))

    def _stop(self, kind: str, host: "MetasrvHost") -> None:
        down_s = self._chance.choice((0.0, self._nemesis.for_s()))
        self._nemesis.fault(kind, host.name, down_s)
        if down_s:
            host.wanted = False
            self._nemesis.later(down_s, host.start)
        host.crash()

    def _others_whole(self, host: "MetasrvHost") -> bool:
        """Whether the two others have all that they ever promised on their disks."""
        others = [h for h in self._nemesis.world.metasrvs if h is not host]
        return host.up and all(self.whole(other) for other in others)

    def whole(self, host: "MetasrvHost") -> bool:
        """Whether what a replica promised is on its disk, and it takes part in votes."""
        if host.flipped or not (host.raft_folder / "journal").exists():
            return False
        if host.process is not None and host.process.state == "paused":
            return False  # it may hang in a sync
        copy = self._nemesis.world.folder / "journal-looked-at"
        shutil.copyfile(host.raft_folder / "journal", copy)
        try:
            journal = Journal.open(copy, host.cluster, host.name, Disk())
        except Damaged:
            return False
        journal.close()
        copy.unlink()
        return journal.standing is Standing.JOINED


def _last_frame(data: bytes) -> int:
    """Where the last good frame of a journal begins."""
    length = struct.unpack_from("<H", data, _MAGIC_BYTES + _VERSION_BYTES)[0]
    offset = last = _MAGIC_BYTES + _VERSION_BYTES + 2 + 4 + int(length)
    while (found := _frame_at(data, offset)) and found[0] == offset:
        last = offset
        offset += _FRAME_BYTES + len(found[1])
    return last
