"""The data folder: locked by one process, of one cluster and node id for ever, and the proof of succession.

`folder.json` holds the random id that proves to metasrv that a new process is the successor of the old one.
`incarnation.json` holds the registration in force, so that `datanode-agent release` can give it back once every
process of the unit is gone.
"""

import fcntl
import os
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

from groundwork.core.errors import BadInput

FORMAT = "datanode-folder"
VERSION = 1
T = TypeVar("T")


class _Identity(msgspec.Struct, frozen=True):
    format: str
    version: int
    cluster_id: str
    node_id: str
    folder_id: str


class _Registration(msgspec.Struct, frozen=True):
    format: str
    version: int
    incarnation: int


class DataFolder:
    """Holds the lock while it is open. The operating system drops it with the process, however that ends."""

    def __init__(self, path: Path, cluster_id: str, node_id: str) -> None:
        self.path = path
        self.folder_id = ""
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._descriptor = -1
        self._made_now = False

    def open(self) -> None:
        """Make, lock and check the folder. Raises BadInput that says what to do."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput("data_dir", f"cannot write in {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise BadInput("data_dir", f"{self.path} is locked by a live process: stop that one first") from error
        try:
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
        if self._made_now:
            (self.path / "folder.json").unlink(missing_ok=True)

    def incarnation(self) -> int | None:
        """The registration that is not released yet, or None."""
        path = self.path / "incarnation.json"
        held = self._read(path, _Registration)
        if held is not None and (held.format != FORMAT or held.version > VERSION):
            raise BadInput("data_dir", f"{path} is of a newer version than {VERSION}: upgrade datanode-agent")
        return None if held is None else held.incarnation

    def registered(self, incarnation: int) -> None:
        """Remember the registration in force. Raises BadInput."""
        self._write(self.path / "incarnation.json", _Registration(FORMAT, VERSION, incarnation))

    def released(self) -> None:
        """Forget it: metasrv knows that it is over."""
        (self.path / "incarnation.json").unlink(missing_ok=True)

    def _check_identity(self) -> None:
        path = self.path / "folder.json"
        held = self._read(path, _Identity)
        if held is None:
            held = _Identity(FORMAT, VERSION, self._cluster_id, self._node_id, secrets.token_hex(16))
            self._write(path, held)
            self._made_now = True
        if held.format != FORMAT or held.version > VERSION:
            raise BadInput("data_dir", f"{path} is of version {held.version}, newer than {VERSION}: upgrade")
        for field, mine, theirs in (
            ("cluster_id", self._cluster_id, held.cluster_id),
            ("node_id", self._node_id, held.node_id),
        ):
            if mine != theirs:
                raise BadInput(
                    "data_dir",
                    f"{self.path} belongs to {field} {theirs}, the configuration says {mine}: "
                    f"correct {field} or data_dir",
                )
        self.folder_id = held.folder_id

    def _read(self, path: Path, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise BadInput(
                "data_dir",
                f"{path} cannot be read ({error}): a datanode keeps no data here, start with an empty data_dir",
            ) from error

    def _write(self, path: Path, record: msgspec.Struct) -> None:
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
