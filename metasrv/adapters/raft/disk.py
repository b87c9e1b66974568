"""The calls that change files, in one place, so that a test can fail or tear each of them."""

import errno
import fcntl
import os
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Disk:
    """Plain files. Every method is one step of a crash: before it or after it, never half seen by its caller."""

    def open(self, path: Path, create: bool = False) -> int:
        """A descriptor for reading and writing; with `create` of a new, empty file in place of any old one."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        return os.open(path, flags, 0o600)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view = view[written:]
            offset += written

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Wait until what was written, and the size, are on the medium."""
        os.fdatasync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target` and wait until the folder is on the medium."""
        source.replace(target)
        self.sync_folder(target.parent)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in `folder` are on the medium."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> int:
        """A descriptor that keeps every other process from locking `path`. Raises BlockingIOError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        return descriptor

    def close(self, descriptor: int) -> None:
        """Let go of a descriptor."""
        os.close(descriptor)
