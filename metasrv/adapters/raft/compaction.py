"""Taking snapshots of the state machine, a little every turn, and cutting the journal behind them."""

from collections.abc import Callable
from pathlib import Path

import structlog

from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.core import Core
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.journal import DiskFull, Journal
from metasrv.adapters.raft.library import now_s
from metasrv.adapters.raft.snapshot import SnapshotInfo, SnapshotWriter
from metasrv.core.ports import StateMachine

log = structlog.get_logger()
_RETRY_S = 10.0
_BYTES_AGAIN_S = 1.0
_TRANSFER_PATIENCE = 4  # the journal may grow to so many times its limit while a follower receives a snapshot


class Compaction:
    """One replica's own snapshots."""

    def __init__(
        self,
        config: RaftConfig,
        core: Core,
        journal: Journal,
        machine: StateMachine,
        path: Path,
        disk: Disk,
        snapshot: SnapshotInfo | None,
    ) -> None:
        self._limits, self._cluster_id = config.limits, config.cluster_id
        self._core, self._journal, self._machine = core, journal, machine
        self._path, self._disk = path, disk
        self._writer: SnapshotWriter | None = None
        self._not_before_s = self._cut_not_before_s = 0.0
        self._cut_wanted = False
        self.snapshot = snapshot

    @property
    def running(self) -> bool:
        """Whether a snapshot is being written."""
        return self._writer is not None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do now."""
        return self._writer is None and not self._cut_wanted and not self._due()

    def step(self, in_transfer: Callable[[], int | None]) -> None:
        """A slice of work. `in_transfer` gives the lowest snapshot that a follower is receiving.

        A full disk postpones it: the journal still holds everything.
        """
        try:
            if self._writer is None and self._due():
                self._begin()
            elif self._writer is not None and self._writer.step(self._limits.snapshot_turn_ms / 1000):
                self._done(self._writer)
            if self._cut_wanted and now_s() >= self._cut_not_before_s:
                self._cut(in_transfer())
        except DiskFull as error:
            log.warning("snapshot_failed", reason=str(error), retry_s=_RETRY_S)
            self.abort()
            self._not_before_s = self._cut_not_before_s = now_s() + _RETRY_S

    def installed(self, info: SnapshotInfo) -> None:
        """A leader's snapshot took the place of ours, and of the one being written."""
        self.abort()
        self.snapshot, self._cut_wanted = info, False

    def abort(self) -> None:
        """Give up the snapshot being written."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _due(self) -> bool:
        journal, limits = self._journal, self._limits
        applied = self._core.raftLastApplied
        since = applied - (self.snapshot.index if self.snapshot else 1)
        if since <= 0 or applied <= journal.first_index:
            return False
        many = len(journal) > limits.journal_entries_max and since > limits.journal_entries_max // 4
        return (many or journal.payload_bytes > limits.journal_bytes_max) and now_s() >= self._not_before_s

    def _begin(self) -> None:
        index = self._core.raftLastApplied
        term = self._journal.term_of(index) or 0
        self._writer = SnapshotWriter(self._path, self._cluster_id, index, term, self._machine.snapshot(), self._disk)

    def _done(self, writer: SnapshotWriter) -> None:
        self._writer = None
        self.snapshot = SnapshotInfo(writer.index, writer.term, self._path.stat().st_size)
        self._cut_wanted = True
        if self._journal.payload_bytes > self._limits.journal_bytes_max:
            self._not_before_s = now_s() + _BYTES_AGAIN_S  # while a follower keeps the journal from being cut
        log.info("snapshot_taken", index=writer.index, size_bytes=self.snapshot.size_bytes)

    def _cut(self, in_transfer: int | None) -> None:
        if self.snapshot is None:
            return
        wanted = self._tail_start(self.snapshot.index)
        below = wanted
        if in_transfer is not None and len(self._journal) < _TRANSFER_PATIENCE * self._limits.journal_entries_max:
            below = min(wanted, in_transfer)
        if below > self._journal.first_index:
            self._journal.cut_front(below)
        self._cut_wanted = below < wanted

    def _tail_start(self, index: int) -> int:
        """Where to cut: a tail below the snapshot stays, bounded in entries and in bytes."""
        lowest = max(index - self._limits.journal_tail_entries, self._journal.first_index)
        room = self._limits.journal_bytes_max // 4
        while index > lowest and room > 0:
            room -= self._journal.payload_size(index)
            index -= 1
        return index
