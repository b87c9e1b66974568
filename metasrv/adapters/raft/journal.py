"""The log of one replica on its disk: entries, term, vote and standing in one append-only, checksummed file.

One call of sync() writes one frame and waits for the medium: so of several frames only the last can be torn by a
crash. A bad frame with a good one behind it was durable once and is damage. Truncations are records, not rewrites;
cutting the front writes a new file beside the old one and renames it.

    file   = magic, version u16, length u16, crc u32, header (msgpack: cluster id, node id); frame*
    frame  = mark, length u32, crc u32 of what follows, the frame's own offset u64, body = record*
    record = 'B' index u64 term u64                 the log starts over after this entry, which a snapshot covers
           | 'E' index u64 term u64 length u32 payload
           | 'T' index u64                          entries from here on are gone
           | 'M' term u64 standing u8 length u8 vote
"""

import struct
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from groundwork.core.check import require
from groundwork.core.errors import Damaged, ForeignCluster
from metasrv.adapters.raft.disk import FULL, Disk
from metasrv.adapters.raft.library import LibraryJournal

MAGIC = b"msrvlog\n"
VERSION = 1
MARK = b"\xf5fr\xa1"
FRAME_BYTES_MAX = 256 << 20
NO_OP = b"\x01"
_HEAD = struct.Struct("<8sHHI")
_FRAME = struct.Struct("<4sIIQ")
_ENTRY = struct.Struct("<cQQI")
_BASE = struct.Struct("<cQQ")
_TRUNCATE = struct.Struct("<cQ")
_META = struct.Struct("<cQBB")
WHAT_TO_DO = (
    "This replica does not start, because its votes and promises cannot be trusted any more. The other replicas hold "
    "the same data: start it once with --rejoin to set the damaged files aside and copy everything from them"
)


class Standing(IntEnum):
    """Whether this replica's votes and answers count."""

    BLANK = 0  # a new, empty journal: votes only among others as blank as itself
    REJOINING = 1  # its journal was lost while the cluster has a history: counts only after it has caught up
    JOINED = 2


class DiskFull(Exception):
    """No space left. Nothing that was not synced before has left this replica, and nothing is lost in memory."""


class Entry(NamedTuple):
    """One entry as the core holds it; the first byte of `payload` is its kind."""

    payload: bytes
    idx: int
    term: int


class Journal(LibraryJournal):  # type: ignore[misc]
    """The library's journal interface over our file. Everything is in memory at once, and durable after sync()."""

    def __init__(self, path: Path, cluster_id: str, node_id: str, disk: Disk) -> None:
        self._path = path
        self._header = msgspec.msgpack.encode([cluster_id, node_id])
        self._cluster_id, self._node_id = cluster_id, node_id
        self._disk = disk
        self._entries: list[Entry] = [Entry(NO_OP, 1, 0)]
        self._term, self._vote, self._standing = 0, "", Standing.BLANK
        self._records: list[bytes] = []
        self._deferred: int | None = None
        self._descriptor = -1
        self._size = 0
        self.commit_index = 1
        self.payload_bytes = 0

    # ---------------------------------------------------------------- opening

    @classmethod
    def create(cls, path: Path, cluster_id: str, node_id: str, standing: Standing, disk: Disk) -> "Journal":
        """A new journal that holds only the entry 1 of term 0 that all replicas share."""
        journal = cls(path, cluster_id, node_id, disk)
        journal._standing = standing
        journal.rewrite()
        return journal

    @classmethod
    def open(cls, path: Path, cluster_id: str, node_id: str, disk: Disk) -> "Journal":
        """Read a journal back. Cuts a torn tail; raises Damaged or ForeignCluster with what to do."""
        journal = cls(path, cluster_id, node_id, disk)
        journal._descriptor = disk.open(path)
        try:
            journal._replay(path.read_bytes())
        except BaseException:
            disk.close(journal._descriptor)
            raise
        return journal

    def _replay(self, data: bytes) -> None:
        offset = self._check_header(data)
        while (found := _frame_at(data, offset)) and found[0] == offset:
            self._replay_records(found[1], offset)
            offset += _FRAME.size + len(found[1])
        self._size = offset
        if offset == len(data):
            return
        # A frame that belongs behind this place was written after everything here was durable. (One that belongs
        # before it is only a copy, in a command that happens to contain a piece of a journal.)
        later = data.find(MARK, offset)
        while later >= 0:
            found = _frame_at(data, later)
            if found and found[0] >= offset:
                raise Damaged(f"{self._path}: bytes from {offset} on fail their checksum. {WHAT_TO_DO}")
            later = data.find(MARK, later + 1)
        self._disk.truncate(self._descriptor, offset)
        self._disk.sync(self._descriptor)

    def _check_header(self, data: bytes) -> int:
        if len(data) < _HEAD.size or not data.startswith(MAGIC):
            raise Damaged(f"{self._path} is not a journal. {WHAT_TO_DO}")
        _, version, length, crc = _HEAD.unpack_from(data)
        header = data[_HEAD.size : _HEAD.size + length]
        if version > VERSION:
            raise Damaged(f"{self._path} has format {version}; this program reads up to {VERSION}: use a newer one")
        if crc32(header) != crc:
            raise Damaged(f"{self._path}: the header fails its checksum. {WHAT_TO_DO}")
        if header != self._header:
            cluster_id, node_id = msgspec.msgpack.decode(header, type=tuple[str, str])
            raise ForeignCluster(
                f"{self._path} belongs to replica {node_id} of cluster {cluster_id}, not to {self._node_id} of "
                f"{self._cluster_id}: correct data_dir, node_id or cluster_id. Nothing was changed"
            )
        return _HEAD.size + int(length)

    def _replay_records(self, body: bytes, at: int) -> None:
        position = 0
        try:
            while position < len(body):
                position = self._replay_record(body, position)
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            raise Damaged(f"{self._path}: the frame at {at} makes no sense ({error}). {WHAT_TO_DO}") from error

    def _replay_record(self, body: bytes, position: int) -> int:
        kind = body[position : position + 1]
        if kind == b"E":
            _, index, term, length = _ENTRY.unpack_from(body, position)
            position += _ENTRY.size
            payload = body[position : position + length]
            if index != self.last_index + 1 or len(payload) != length:
                raise ValueError(f"entry {index} after entry {self.last_index}")
            self._entries.append(Entry(payload, index, term))
            self.payload_bytes += length
            return position + int(length)
        if kind == b"T":
            _, index = _TRUNCATE.unpack_from(body, position)
            if not self.first_index < index <= self.last_index:
                raise ValueError(f"cut at {index} of {self.first_index} to {self.last_index}")
            self._drop_from(index - self.first_index)
            return position + _TRUNCATE.size
        if kind == b"B":
            _, index, term = _BASE.unpack_from(body, position)
            self._entries, self.payload_bytes = [Entry(NO_OP, index, term)], 0
            return position + _BASE.size
        if kind == b"M":
            _, self._term, standing, length = _META.unpack_from(body, position)
            position += _META.size
            self._standing, self._vote = Standing(standing), body[position : position + length].decode()
            return position + int(length)
        raise ValueError(f"record of kind {kind!r}")

    # ---------------------------------------------------------------- what the library's core calls

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append, or step over an entry that is there already: only a real conflict truncates (Raft 5.3)."""
        if self._deferred is not None:
            if self._deferred < len(self._entries):
                here = self._entries[self._deferred]
                if here.idx == idx and here.term == term:
                    self._deferred += 1
                    return
                self._truncate(self._deferred)
            self._deferred = None
        require(idx == self.last_index + 1, f"entry {idx} after entry {self.last_index}")
        self._entries.append(Entry(bytes(command), idx, term))
        self.payload_bytes += len(command)
        self._records.append(_ENTRY.pack(b"E", idx, term, len(command)))
        self._records.append(command)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Remember where the core would cut; add() decides, and settle() forgets it."""
        self._deferred = entryFrom

    def settle(self) -> None:
        """The message that asked for a cut has been handled."""
        self._deferred = None

    def clear(self) -> None:
        """The core's own snapshots are not used: nothing may call this."""
        require(False, "the core cleared its journal")

    deleteEntriesTo = clear

    def __getitem__(self, item: Any) -> Any:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None:
        self.close()

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Kept in memory only, to forbid truncation at or below it: a commit index read from a disk proves nothing."""
        self.commit_index = max(self.commit_index, raftCommitIndex)

    def getRaftCommitIndex(self) -> int:
        """What is known to be committed without any peer: what a snapshot covers."""
        return self.commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Term and vote; durable with the next sync(), before any message that promises them."""
        self._term, self._vote = term, votedForNodeId or ""
        self._records.append(self._meta())

    def getCurrentTerm(self) -> int:
        """The term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """The replica that got this replica's vote in this term."""
        return self._vote or None

    # ---------------------------------------------------------------- what this package calls

    @property
    def first_index(self) -> int:
        """The index that the log stands on."""
        return self._entries[0].idx

    @property
    def last_index(self) -> int:
        """The index of the last entry."""
        return self._entries[-1].idx

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return self._size

    @property
    def standing(self) -> Standing:
        """Whether votes and answers of this replica count."""
        return self._standing

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._records)

    def set_standing(self, standing: Standing) -> None:
        """Durable with the next sync()."""
        self._standing = standing
        self._records.append(self._meta())

    def term_of(self, index: int) -> int | None:
        """The term of an entry, or None where the log does not hold it."""
        position = index - self.first_index
        return self._entries[position].term if 0 <= position < len(self._entries) else None

    def payload_size(self, index: int) -> int:
        """The bytes of an entry that the log holds."""
        return len(self._entries[index - self.first_index].payload)

    def first_of_term(self, index: int) -> int:
        """The first index, above the commit index, of the run of entries that have the term of `index`."""
        term = self.term_of(index)
        lowest = max(self.commit_index, self.first_index) + 1
        while index > lowest and self.term_of(index - 1) == term:
            index -= 1
        return max(index, lowest)

    def sync(self) -> bool:
        """Make everything durable; whether there was anything. Raises DiskFull, or OSError, which must be fatal."""
        if not self._records:
            return False
        body = b"".join(self._records)
        frame = _frame(body, self._size)
        try:
            self._disk.write(self._descriptor, frame, self._size)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._disk.truncate(self._descriptor, self._size)
            raise DiskFull(str(error)) from error
        self._disk.sync(self._descriptor)
        self._size += len(frame)
        self._records = []
        return True

    def reset(self, index: int, term: int) -> None:
        """Start over after a snapshot that this log does not reach, or contradicts."""
        require(index > self.commit_index, f"a snapshot up to {index} is older than what is committed here")
        self._entries, self.payload_bytes, self._deferred = [Entry(NO_OP, index, term)], 0, None
        self.commit_index = index
        self._records.append(_BASE.pack(b"B", index, term))

    def cut_front(self, index: int) -> None:
        """Drop the entries below `index`, which a snapshot covers, and write the rest to a new file.

        Raises DiskFull, with the old file still in use.
        """
        require(index <= self.commit_index, f"cutting up to {index}, which is not known to be committed")
        keep = index - self.first_index
        if keep <= 0:
            return
        dropped, self._entries = self._entries[:keep], self._entries[keep:]
        try:
            self.rewrite()
        except DiskFull:
            self._entries = dropped + self._entries
            raise
        self.payload_bytes = sum(len(entry.payload) for entry in self._entries)

    def rewrite(self) -> None:
        """Write what is in memory to a new file and put it in place of the old one. Raises DiskFull."""
        temporary = self._path.with_name(self._path.name + ".new")
        head = _HEAD.pack(MAGIC, VERSION, len(self._header), crc32(self._header)) + self._header
        first = self._entries[0]
        records = [self._meta(), _BASE.pack(b"B", first.idx, first.term)]
        for entry in self._entries[1:]:
            records += [_ENTRY.pack(b"E", entry.idx, entry.term, len(entry.payload)), entry.payload]
        data = head + _frame(b"".join(records), len(head))
        descriptor = -1
        try:
            descriptor = self._disk.open(temporary, create=True)
            self._disk.write(descriptor, data, 0)
        except OSError as error:
            if descriptor >= 0:
                self._disk.close(descriptor)
            temporary.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise
            raise DiskFull(str(error)) from error
        self._disk.sync(descriptor)
        self._disk.replace(temporary, self._path)
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
        self._descriptor, self._size, self._records = descriptor, len(data), []

    def close(self) -> None:
        """Let go of the file; what was not synced is lost, as in a crash."""
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1

    def _truncate(self, position: int) -> None:
        index = self._entries[position].idx
        require(index > self.commit_index, f"asked to truncate at {index}; committed up to {self.commit_index}")
        self._drop_from(position)
        self._records.append(_TRUNCATE.pack(b"T", index))

    def _drop_from(self, position: int) -> None:
        self.payload_bytes -= sum(len(entry.payload) for entry in self._entries[position:])
        del self._entries[position:]

    def _meta(self) -> bytes:
        vote = self._vote.encode()
        return _META.pack(b"M", self._term, self._standing, len(vote)) + vote


def _frame(body: bytes, offset: int) -> bytes:
    return _FRAME.pack(MARK, len(body), _crc(body, offset), offset) + body


def _crc(body: bytes, offset: int) -> int:
    return crc32(body, crc32(offset.to_bytes(8, "little")))


def _frame_at(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """The good frame at `offset`: where it says that it belongs, and its body."""
    if offset + _FRAME.size > len(data):
        return None
    mark, length, crc, own = _FRAME.unpack_from(data, offset)
    body = data[offset + _FRAME.size : offset + _FRAME.size + length]
    if mark != MARK or not 0 < length <= FRAME_BYTES_MAX or len(body) != length or _crc(body, own) != crc:
        return None
    return own, body
