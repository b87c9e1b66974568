"""Real files that forget what was not synced: the disk of a simulated machine that can lose power at any step."""

import errno
import os
import random
from pathlib import Path

from metasrv.adapters.raft.disk import Disk


class PowerLost(BaseException):
    """Not an Exception: nothing in the program may catch it."""


class CrashingDisk(Disk):
    """Counts its steps. After `steps_left` of them the power goes; lose_unsynced() then leaves what a medium would."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._paths: dict[int, Path] = {}
        self._locks: set[int] = set()
        self._synced: dict[Path, int] = {}
        self.steps_left: int | None = None
        self.full = False

    def _step(self) -> bool:
        """Whether the power goes during this step."""
        if self.steps_left is None:
            return False
        self.steps_left -= 1
        return self.steps_left < 0

    def open(self, path: Path, create: bool = False) -> int:
        """Open, and remember what is durable of it."""
        descriptor = super().open(path, create)
        self._paths[descriptor] = path
        self._synced[path] = 0 if create else self._synced.get(path, os.fstat(descriptor).st_size)
        return descriptor

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write, in part when the power goes, half when the disk is full."""
        if self._step():
            super().write(descriptor, data[: self._chance.randint(0, len(data))], offset)
            raise PowerLost
        if self.full:
            super().write(descriptor, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        """Everything written so far is durable."""
        if self._step():
            raise PowerLost
        self._synced[self._paths[descriptor]] = os.fstat(descriptor).st_size

    def replace(self, source: Path, target: Path) -> None:
        """Rename; when the power goes, before or after it."""
        lost = self._step()
        if lost and self._chance.random() < 0.5:
            raise PowerLost
        source.replace(target)
        self._synced[target] = self._synced.pop(source)
        for descriptor, path in self._paths.items():
            if path == source:
                self._paths[descriptor] = target
        if lost:
            raise PowerLost

    def sync_folder(self, folder: Path) -> None:
        """Part of replace()."""

    def lock(self, path: Path) -> int:
        """No lock: a crashed replica never lets go of one."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._locks.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        """Forget the descriptor."""
        self._paths.pop(descriptor, None)
        self._locks.discard(descriptor)
        super().close(descriptor)

    def lose_unsynced(self) -> None:
        """The power is gone: keep the synced bytes of each file, and any number of the others, torn or not."""
        for descriptor, path in list(self._paths.items()):
            size, synced = os.fstat(descriptor).st_size, self._synced.get(path, 0)
            if size > synced:
                kept = self._chance.randint(synced, size)
                os.ftruncate(descriptor, kept)
                if kept > synced and self._chance.random() < 0.3:
                    os.pwrite(descriptor, bytes(kept - synced), synced)
            os.close(descriptor)
        for descriptor in self._locks:
            os.close(descriptor)
        self._paths.clear()
        self._locks.clear()
