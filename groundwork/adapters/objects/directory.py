"""Object storage in a directory: of one machine, or of a file system that all datanodes mount.

A create writes a temporary file, syncs it, links it under its name, and syncs the folder. The link is what makes it
put-if-absent (it fails where the name exists) and keeps a name from being seen before its bytes are durable. A name
that is seen by others before its own folder was synced does no harm: whoever acts on it by a create in the same
folder syncs that folder first.
"""

import errno
import itertools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import structlog

from groundwork.adapters.objects.keys import check_key, check_prefix
from groundwork.core.errors import AlreadyExists, BadInput, NotFound, StoreUnavailable
from groundwork.core.ports import Workers

log = structlog.get_logger()
_TEMPORARY = ".tmp"
_TEMPORARY_S_MAX = 24 * 3600  # a create takes seconds; nobody is still writing a file that is this old
Keys = list[str]


class DirectoryStore:
    """The ObjectStore port on a directory. Any number of processes may share it."""

    def __init__(self, root: Path, workers: Workers) -> None:
        self._root = str(root)
        self._workers = workers
        self._temporary = f"{self._root}/{_TEMPORARY}"
        self._name = f"{self._temporary}/{secrets.token_hex(8)}-"
        self._count = itertools.count()  # next() on it is one step, also for many threads
        self._durable: set[str] = set()  # folders whose own names are known to be durable
        self._lost: set[str] = set()  # folders that failed a sync: the kernel may have dropped what it could not write
        try:
            Path(self._temporary).mkdir(parents=True, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise BadInput("object_store.directory", f"cannot use {root}: {error.strerror}") from error

    async def create(self, key: str, body: bytes) -> None:
        """Put-if-absent, durable when it returns. Raises AlreadyExists, StoreUnavailable."""
        check_key(key)
        await self._workers.run(lambda: self._create(key, body))

    async def get(self, key: str) -> bytes:
        """The whole body. Raises NotFound, StoreUnavailable."""
        check_key(key)
        return await self._workers.run(lambda: self._get(key))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The bodies, None where there is none: one turn of one worker. Raises StoreUnavailable."""
        for key in keys:
            check_key(key)
        return await self._workers.run(lambda: [self._find(key) for key in keys])

    async def list(self, prefix: str, start_after: str = "") -> list[str]:
        """The keys under a folder after `start_after`, sorted. Raises StoreUnavailable."""
        check_prefix(prefix)
        return await self._workers.run(lambda: self._list(prefix, start_after))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what is there. Raises StoreUnavailable."""
        for key in keys:
            check_key(key)
        await self._workers.run(lambda: self._delete(keys))

    def _sweep(self) -> None:
        """Drop what dead processes left. Age is by the file system's own clock: that of a probe against theirs."""
        probe = Path(f"{self._name}probe")
        probe.touch()
        now_s = probe.stat().st_mtime
        for path in Path(self._temporary).iterdir():
            try:
                if path == probe or now_s - path.stat().st_mtime > _TEMPORARY_S_MAX:
                    path.unlink()
            except FileNotFoundError:
                continue  # its process was alive and is done with it

    # ---------------------------------------------------------------- blocking, on a worker

    def _create(self, key: str, body: bytes) -> None:
        path = f"{self._root}/{key}"
        folder = path.rpartition("/")[0]
        temporary = f"{self._name}{next(self._count)}"
        try:
            self._make_folder(folder)
            try:
                _write_durably(temporary, body)
                try:
                    os.link(temporary, path)
                    exists = False
                except FileExistsError:
                    exists = True
            finally:
                Path(temporary).unlink(missing_ok=True)
            # Also where it exists: it may be one's own from an attempt that failed to sync the folder.
            self._sync_folder(folder)
        except OSError as error:
            raise _unavailable("create", key, error) from error
        if exists:
            raise AlreadyExists(f"{key} exists")

    def _make_folder(self, folder: str) -> None:
        """Create a folder and those above it; each name is durable before anything is put under it."""
        if folder in self._durable:
            return
        if len(folder) > len(self._root):
            parent = folder.rpartition("/")[0]
            self._make_folder(parent)
            try:
                Path(folder).mkdir()
            except FileExistsError:
                pass  # perhaps by another process that has not synced it yet: sync in any case
            self._sync_folder(parent)
        self._durable.add(folder)

    def _sync_folder(self, folder: str) -> None:
        if folder in self._lost:
            raise OSError(errno.EIO, f"an earlier sync of {folder} failed: restart, after the disk is repaired")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError:
            # A second sync may report success although the first one's writes are gone.
            self._lost.add(folder)
            log.exception("folder_sync_failed", folder=folder)
            raise
        finally:
            os.close(descriptor)

    def _get(self, key: str) -> bytes:
        try:
            return _read_all(f"{self._root}/{key}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"{key} does not exist") from error
        except OSError as error:
            raise _unavailable("get", key, error) from error

    def _find(self, key: str) -> bytes | None:
        try:
            return self._get(key)
        except NotFound:
            return None

    def _list(self, prefix: str, start_after: str) -> Keys:
        found: Keys = []
        try:
            self._walk(prefix, start_after, found)
        except OSError as error:
            raise _unavailable("list", prefix, error) from error
        return sorted(found)

    def _walk(self, prefix: str, start_after: str, found: Keys) -> None:
        try:
            entries = os.scandir(f"{self._root}/{prefix}")
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                key = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    # All keys below begin with `key/`: a start_after above them all makes the walk needless.
                    if f"{key}0" > start_after:
                        self._walk(f"{key}/", start_after, found)
                elif key > start_after:
                    found.append(key)

    def _delete(self, keys: Sequence[str]) -> None:
        folders: set[str] = set()
        for key in keys:
            path = f"{self._root}/{key}"
            try:
                Path(path).unlink()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise _unavailable("delete", key, error) from error
            folders.add(path.rpartition("/")[0])
        for folder in folders:
            try:
                self._sync_folder(folder)
            except OSError as error:
                raise _unavailable("delete", folder, error) from error


def _write_durably(path: str, body: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_all(path: str) -> bytes:
    """One read of the size that the file has (objects never change), instead of a growing buffer."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        body = os.read(descriptor, size)
        while len(body) < size:
            more = os.read(descriptor, size - len(body))
            if not more:
                break  # shorter than its inode says: whoever reads it finds the damage
            body += more
        return body
    finally:
        os.close(descriptor)


def _unavailable(what: str, key: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"{what} {key}: {error.strerror or error}; its outcome is not known")
