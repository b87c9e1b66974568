"""The data folder: writable, locked by one process, and of one cluster and replica for ever."""

import fcntl
import os
from pathlib import Path

import msgspec

from groundwork.core.errors import BadInput

FORMAT = "metasrv-folder"
VERSION = 1


class FolderIdentity(msgspec.Struct, frozen=True):
    """identity.json: whose folder this is."""

    format: str
    version: int
    cluster_id: str
    node_id: str


class DataFolder:
    """Holds the lock while it is open. The operating system drops it with the process, however that ends."""

    def __init__(self, path: Path, cluster_id: str, node_id: str) -> None:
        self.path = path
        self._identity = FolderIdentity(FORMAT, VERSION, cluster_id, node_id)
        self._descriptor = -1
        self._made_now = False

    def open(self) -> None:
        """Make, lock and check the folder. Raises BadInput that says what to do."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BadInput("data_dir", f"cannot write in {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput("data_dir", f"{self.path} is locked by another running process: stop that one") from error
        self._check_identity()

    def close(self) -> None:
        """Drop the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """A folder that this process made is no cluster's again, unless there is a journal in it."""
        if self._made_now and not (self.path / "raft").exists():
            (self.path / "identity.json").unlink(missing_ok=True)

    def _check_identity(self) -> None:
        path = self.path / "identity.json"
        try:
            held = msgspec.json.decode(path.read_bytes(), type=FolderIdentity)
        except FileNotFoundError:
            self._write_identity(path)
            self._made_now = True
            return
        except (OSError, msgspec.DecodeError) as error:
            raise BadInput(
                "data_dir", f"{path} cannot be read ({error}): restore it, or start with --rejoin"
            ) from error
        if held.format != FORMAT or held.version > VERSION:
            raise BadInput("data_dir", f"{path} is of version {held.version}, newer than {VERSION}: upgrade metasrv")
        if held.cluster_id != self._identity.cluster_id:
            raise BadInput(
                "data_dir",
                f"{self.path} belongs to cluster {held.cluster_id}, the configuration says "
                f"{self._identity.cluster_id}: correct cluster_id or data_dir",
            )
        if held.node_id != self._identity.node_id:
            raise BadInput(
                "data_dir",
                f"{self.path} belongs to {held.node_id}, the configuration says {self._identity.node_id}: "
                "correct node_id or data_dir",
            )

    def _write_identity(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as out:
                out.write(msgspec.json.encode(self._identity))
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
