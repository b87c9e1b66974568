"""The disk of one simulated machine: real files that forget what was not synced, and that can fail, fill and hang."""

import errno
import os
import random
from pathlib import Path

from groundwork.sim.processes import SimProcess
from tests.sim.raft.crashing_disk import CrashingDisk


class SimDisk(CrashingDisk):
    """Counts as effects of its process; after the process's end it does nothing."""

    def __init__(self, process: SimProcess, chance: random.Random) -> None:
        super().__init__(chance)
        self._process = process
        self.fail_syncs = False

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write."""
        self._process.effect()
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        """Sync, or fail to."""
        self._process.effect()
        if self.fail_syncs:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)

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
