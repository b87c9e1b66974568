"""Snapshots on their way from a leader to a follower whose next entry has been cut from the leader's journal.

The leader hides the follower from the core meanwhile, sends chunks within a window of unacknowledged bytes, and asks
again when it hears nothing. The follower writes to a file of its own, verifies the whole, renames it, and only then
restores it. A snapshot that covers no more than what the follower holds anyway is never installed (E14).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from groundwork.core.errors import Damaged, ForeignCluster
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.core import Core
from metasrv.adapters.raft.disk import FULL, Disk
from metasrv.adapters.raft.filters import Filters
from metasrv.adapters.raft.journal import Journal
from metasrv.adapters.raft.library import now_s
from metasrv.adapters.raft.snapshot import SnapshotInfo, inspect
from protos.raft.v1 import raft_pb2 as pb

log = structlog.get_logger()


class _Outgoing:
    """One follower's transfer. The file stays readable when a newer snapshot takes its name."""

    def __init__(self, descriptor: int, info: SnapshotInfo) -> None:
        self.info = info
        self.descriptor = descriptor
        self.sent = self.acknowledged = 0
        self.sent_s = self.progress_s = now_s()


class Sender:
    """The leader's side."""

    def __init__(self, config: RaftConfig, core: Core, filters: Filters, path: Path, disk: Disk) -> None:
        self._core, self._filters, self._path, self._disk = core, filters, path, disk
        self._chunk = config.limits.chunk_bytes
        self._window = config.limits.chunk_bytes * config.limits.chunks_in_flight_max
        self._again_s = config.append_period_ms / 1000
        self._restart_s = config.election_ms_max / 1000
        self._outgoing: dict[str, _Outgoing] = {}

    def begin(self, peer: str, info: SnapshotInfo) -> None:
        """The core cannot serve `peer` from its journal."""
        self._filters.hide(peer)
        self._outgoing[peer] = _Outgoing(self._disk.open(self._path), info)
        log.info("snapshot_transfer_began", peer=peer, index=info.index, size_bytes=info.size_bytes)

    def end(self, peer: str) -> None:
        """Its next entry is in the journal, or its stream broke, or this replica does not lead any more."""
        transfer = self._outgoing.pop(peer, None)
        if transfer is not None:
            self._disk.close(transfer.descriptor)
            self._filters.show(peer)

    def end_all(self) -> None:
        """Leadership is over."""
        for peer in list(self._outgoing):
            self.end(peer)

    def lowest_index(self) -> int | None:
        """The lowest snapshot under way: entries above it will be needed."""
        return min((transfer.info.index for transfer in self._outgoing.values()), default=None)

    def index_for(self, peer: str) -> int:
        """Where the snapshot ends that `peer` is being sent, or 0."""
        transfer = self._outgoing.get(peer)
        return transfer.info.index if transfer is not None else 0

    def acknowledged(self, peer: str, ack: pb.SnapshotAck) -> None:
        """The follower has so many bytes, or wants to start over."""
        transfer = self._outgoing.get(peer)
        if transfer is None or ack.index != transfer.info.index or ack.offset > transfer.info.size_bytes:
            return
        if ack.offset < transfer.acknowledged:
            transfer.sent = ack.offset
        if ack.offset != transfer.acknowledged:
            transfer.progress_s = now_s()
        transfer.acknowledged = ack.offset
        transfer.sent = max(transfer.sent, ack.offset)

    def pump(self) -> None:
        """Send what the windows allow; ask again where nothing was heard."""
        if not self._outgoing:
            return
        now = now_s()
        for peer, transfer in self._outgoing.items():
            if now - transfer.progress_s > self._restart_s:
                transfer.sent, transfer.progress_s = transfer.acknowledged, now
            size = transfer.info.size_bytes
            while transfer.sent < size and transfer.sent - transfer.acknowledged < self._window:
                data = os.pread(transfer.descriptor, self._chunk, transfer.sent)
                self._post(peer, transfer, transfer.sent, data)
                transfer.sent += len(data)
            if now - transfer.sent_s >= self._again_s:
                self._post(peer, transfer, transfer.acknowledged, b"")

    def _post(self, peer: str, transfer: _Outgoing, offset: int, data: bytes) -> None:
        transfer.sent_s = now_s()
        chunk = pb.SnapshotChunk(
            term=self._core.term,
            index=transfer.info.index,
            index_term=transfer.info.term,
            offset=offset,
            data=data,
            total_bytes=transfer.info.size_bytes,
            sequence=self._filters.next_sequence(),
        )
        self._filters.post(peer, pb.Message(snapshot_chunk=chunk))


@dataclass(frozen=True)
class _Incoming:
    peer: str
    index: int
    index_term: int
    total_bytes: int


class Receiver:
    """The follower's side. `install` restores a verified file that is in place, and starts the journal over."""

    def __init__(
        self,
        config: RaftConfig,
        core: Core,
        filters: Filters,
        journal: Journal,
        path: Path,
        disk: Disk,
        install: Callable[[SnapshotInfo], None],
    ) -> None:
        self._cluster_id = config.cluster_id
        self._core, self._filters, self._journal = core, filters, journal
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._disk, self._install = disk, install
        self._sync_bytes = config.limits.chunk_bytes * config.limits.chunks_in_flight_max
        self._incoming: _Incoming | None = None
        self._descriptor = -1
        self._offset = self._synced = 0

    def receive(self, peer: str, chunk: pb.SnapshotChunk) -> None:
        """Take one chunk. Raises OSError from a failed sync, which must be fatal."""
        if not self._filters.from_leader(peer, chunk.term, chunk.sequence):
            return
        self._filters.heartbeat(peer, chunk.term)
        matching = self._matching(chunk)
        if matching is not None:
            self.close()
            self._core.reply_reset(peer, matching + 1)
            return
        incoming = _Incoming(peer, chunk.index, chunk.index_term, chunk.total_bytes)
        try:
            if incoming != self._incoming:
                self.close()
                self._descriptor = self._disk.open(self._part, create=True)
                self._incoming = incoming
            if chunk.data and chunk.offset == self._offset:
                self._disk.write(self._descriptor, chunk.data, self._offset)
                self._offset += len(chunk.data)
        except OSError as error:
            if error.errno not in FULL:
                raise
            log.warning("snapshot_receive_failed", reason="no space left", path=str(self._part))
            self.close()
            return
        if self._offset - self._synced >= self._sync_bytes or self._offset == chunk.total_bytes:
            self._disk.sync(self._descriptor)
            self._synced = self._offset
        if self._offset == chunk.total_bytes:
            self._complete(peer)
            return
        ack = pb.SnapshotAck(term=self._core.term, index=chunk.index, offset=self._offset)
        self._filters.post(peer, pb.Message(snapshot_ack=ack))

    def close(self) -> None:
        """Drop what is half received."""
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._part.unlink(missing_ok=True)
        self._incoming, self._descriptor, self._offset, self._synced = None, -1, 0, 0

    def _matching(self, chunk: pb.SnapshotChunk) -> int | None:
        """Up to where this log is known to be the leader's, where that makes the snapshot needless.

        Not the end of the log: what lies behind may contradict the leader.
        """
        if chunk.index <= self._journal.commit_index:
            return self._journal.commit_index
        return chunk.index if self._journal.term_of(chunk.index) == chunk.index_term else None

    def _complete(self, peer: str) -> None:
        try:
            info = inspect(self._part, self._cluster_id)
        except (Damaged, ForeignCluster) as error:
            log.warning("snapshot_refused", peer=peer, reason=str(error))
            self.close()
            return
        self._disk.close(self._descriptor)
        self._descriptor = -1
        self._disk.replace(self._part, self._path)
        self.close()
        self._install(info)
        self._core.reply_reset(peer, info.index + 1, holds=True)
