"""The disk of one simulated machine: real files that forget what was not synced, and that can fail, fill and hang."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

from groundwork.sim.processes import SimProcess
from tests.sim.raft.crashing_disk import CrashingDisk


class SimDisk(CrashingDisk):
    """Counts as effects of its process; after the process's end it does nothing."""

    def __init__(self, process: SimProcess, chance: random.Random) -> None:
        super().__init__(chance)
        self._process = process
        self.fail_syncs = False
        self.hang_s = 0.0  # how long the next sync of the journal takes
        self.on_hang: Callable[[float], None] = lambda for_s: None
        self._hanging: tuple[Path, int] | None = None
        process.on_resume.append(self._returned)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write."""
        self._process.effect()
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        """Sync, or fail to."""
        self._process.effect()
        if self.fail_syncs:
            raise OSError(errno.EIO, "Input/output error")
        path = self._paths[descriptor]
        if self.hang_s and path.name == "journal":
            for_s, self.hang_s = self.hang_s, 0.0
            self._hanging = (path, os.fstat(descriptor).st_size)
            self.on_hang(for_s)  # what this turn still sends waits until the process goes on: the sync has not returned
            return
        super().sync(descriptor)

    def _returned(self) -> None:
        if self._hanging is not None:
            path, size = self._hanging
            self._hanging = None
            self._synced[path] = max(size, self._synced.get(path, 0))

    def replace(self, source: Path, target: Path) -> None:
        """Rename."""
        self._process.effect()
        super().replace(source, target)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut."""
        self._process.effect()
        super().truncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        """The descriptors of a dead process are closed already."""
        if self._process.alive:
            super().close(descriptor)

    def process_gone(self, power_lost: bool) -> None:
        """What the process wrote stays, unless the machine lost its power."""
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()
        if power_lost:
            self.lose_unsynced()
            return
        for descriptor in self._paths:
            os.close(descriptor)
        self._paths.clear()
