"""A process's data folder: writable, locked by one process, and of one cluster and node for ever."""

import fcntl
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from groundwork.core.errors import BadInput

VERSION = 1
T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose folder it is. `folder_id`: a random id, where a program wants to prove that it has the same folder."""

    format: str
    version: int
    cluster_id: str
    node_id: str
    folder_id: str = ""


class LockedFolder:
    """Holds the lock while it is open. The operating system drops it with the process, however that ends.

    `name` is the file that holds `mine` once the folder is made; `cure` says what to do where a file cannot be read.
    """

    def __init__(self, path: Path, name: str, mine: Identity, cure: str) -> None:
        self.path = path
        self.held = mine
        self.made_now = False
        self._file = path / name
        self._cure = cure
        self._descriptor = -1

    def open(self) -> None:
        """Make, lock and check the folder. Raises BadInput that says what to do."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput("data_dir", f"cannot write in {self.path}: {error.strerror}") from error
        try:
            self._lock()
            self._check_identity()
        except BadInput:
            self.close()
            raise

    def close(self) -> None:
        """Drop the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """A folder that this process made is no cluster's again: what it was told turned out to be wrong."""
        if self.made_now:
            self._file.unlink(missing_ok=True)

    def read(self, path: Path, kind: type[T]) -> T | None:
        """A record, or None where there is none. Raises BadInput."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise BadInput("data_dir", f"{path} cannot be read ({error}): {self._cure}") from error

    def write(self, path: Path, record: msgspec.Struct) -> None:
        """Replace a record, durably and whole. Raises BadInput."""
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as out:
                out.write(msgspec.json.encode(record))
                out.flush()
                os.fsync(out.fileno())
            temporary.rename(path)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise BadInput("data_dir", f"cannot write in {self.path}: {error.strerror}") from error

    def check_format(self, path: Path, held: str, version: int) -> None:
        """Raises BadInput for a record of another program or of a newer release."""
        if held != self.held.format:
            raise BadInput("data_dir", f"{path} is no file of this program: it says {held!r}")
        if version > VERSION:
            raise BadInput("data_dir", f"{path} is of version {version}, newer than {VERSION}: upgrade this program")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput("data_dir", f"{self.path} is locked by a live process: stop that one first") from error

    def _check_identity(self) -> None:
        mine, held = self.held, self.read(self._file, Identity)
        if held is None:
            self.write(self._file, mine)
            self.made_now = True
            return
        self.check_format(self._file, held.format, held.version)
        for field in ("cluster_id", "node_id"):
            configured, found = getattr(mine, field), getattr(held, field)
            if configured != found:
                raise BadInput(
                    "data_dir",
                    f"{self.path} belongs to {field} {found}, the configuration says {configured}: "
                    f"correct {field} or data_dir",
                )
        if mine.folder_id and not held.folder_id:
            raise BadInput("data_dir", f"{self._file} names no folder_id: {self._cure}")
        self.held = held
