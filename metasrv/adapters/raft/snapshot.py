"""Snapshot files: written in small steps between other work, checksummed, and put in place by a rename.

file  = magic, version u16, length u16, crc u32, header (msgpack: cluster id, index, term); slice*; end
slice = length u32, crc u32 (each goes on from the one before, so nothing can be swapped), bytes
end   = length 0xffffffff, crc u32 of the last slice
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec

from groundwork.core.errors import Damaged, ForeignCluster
from metasrv.adapters.raft.disk import FULL, Disk
from metasrv.adapters.raft.journal import WHAT_TO_DO, DiskFull
from metasrv.adapters.raft.library import now_s

MAGIC = b"msrvsnp\n"
VERSION = 1
_HEAD = struct.Struct("<8sHHI")
_SLICE = struct.Struct("<II")
_END = 0xFFFFFFFF
_SYNC_BYTES = 1 << 20
SLICE_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class SnapshotInfo:
    """What a snapshot file holds: the state after the entry `index` of `term`."""

    index: int
    term: int
    size_bytes: int


class SnapshotWriter:
    """Writes one snapshot to `path`.new. Raises DiskFull from step(), after which only abort() is allowed."""

    def __init__(self, path: Path, cluster_id: str, index: int, term: int, slices: Iterator[bytes], disk: Disk) -> None:
        self.index, self.term = index, term
        self._path, self._temporary = path, path.with_name(path.name + ".new")
        self._slices, self._disk = slices, disk
        self._buffer = _head(cluster_id, index, term)
        self._crc = 0
        self._offset = self._synced = 0
        self._descriptor = -1

    def step(self, budget_s: float) -> bool:
        """Write for about so long; whether the snapshot is complete and in place."""
        began = now_s()
        if self._descriptor < 0:
            self._descriptor = self._open()
        for piece in self._slices:
            self._crc = crc32(piece, self._crc)
            self._buffer += _SLICE.pack(len(piece), self._crc) + piece
            if len(self._buffer) >= _SYNC_BYTES:
                self._flush()
                return False
            if now_s() - began >= budget_s:
                return False
        self._buffer += _SLICE.pack(_END, self._crc)
        self._flush()
        self._disk.close(self._descriptor)
        self._descriptor = -1
        self._disk.replace(self._temporary, self._path)
        return True

    def abort(self) -> None:
        """Leave no trace."""
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1
        self._temporary.unlink(missing_ok=True)

    def _open(self) -> int:
        try:
            return self._disk.open(self._temporary, create=True)
        except OSError as error:
            raise _full(error) from error

    def _flush(self) -> None:
        try:
            self._disk.write(self._descriptor, bytes(self._buffer), self._offset)
        except OSError as error:
            raise _full(error) from error
        self._offset += len(self._buffer)
        self._buffer.clear()
        self._disk.sync(self._descriptor)  # little by little: one sync of a big file would stall the loop


def _full(error: OSError) -> Exception:
    return DiskFull(str(error)) if error.errno in FULL else error


def _head(cluster_id: str, index: int, term: int) -> bytearray:
    header = msgspec.msgpack.encode([cluster_id, index, term])
    return bytearray(_HEAD.pack(MAGIC, VERSION, len(header), crc32(header)) + header)


def inspect(path: Path, cluster_id: str) -> SnapshotInfo:
    """Verify every byte of a snapshot. Raises Damaged or ForeignCluster."""
    info = _read_header(path, cluster_id)
    for _ in slices(path):
        pass
    return info


def slices(path: Path) -> Iterator[bytes]:
    """The slices in order, each verified. Raises Damaged."""
    with path.open("rb") as file:
        _, _, length, _ = _HEAD.unpack(file.read(_HEAD.size))
        file.seek(_HEAD.size + length)
        crc = 0
        while True:
            head = file.read(_SLICE.size)
            if len(head) < _SLICE.size:
                raise Damaged(f"{path} ends early. {WHAT_TO_DO}")
            length, expected = _SLICE.unpack(head)
            if length == _END:
                if expected != crc or file.read(1):
                    raise Damaged(f"{path}: the end fails its checksum. {WHAT_TO_DO}")
                return
            piece = file.read(length) if length <= SLICE_BYTES_MAX else b""
            crc = crc32(piece, crc)
            if len(piece) != length or crc != expected:
                raise Damaged(f"{path}: the slice at {file.tell() - len(piece)} fails its checksum. {WHAT_TO_DO}")
            yield piece


def _read_header(path: Path, cluster_id: str) -> SnapshotInfo:
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(MAGIC):
            raise Damaged(f"{path} is not a snapshot. {WHAT_TO_DO}")
        _, version, length, crc = _HEAD.unpack(head)
        header = file.read(length)
    if version > VERSION:
        raise Damaged(f"{path} has format {version}; this program reads up to {VERSION}: use a newer one")
    if crc32(header) != crc:
        raise Damaged(f"{path}: the header fails its checksum. {WHAT_TO_DO}")
    found, index, term = msgspec.msgpack.decode(header, type=tuple[str, int, int])
    if found != cluster_id:
        raise ForeignCluster(f"{path} belongs to cluster {found}, not to {cluster_id}. Nothing was changed")
    return SnapshotInfo(index, term, path.stat().st_size)
