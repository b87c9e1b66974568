"""One replica's folder: journal and snapshot, opened together, brought in line, and locked against a second process."""

from dataclasses import dataclass
from pathlib import Path

import structlog

from groundwork.core.errors import BadInput, Damaged
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.journal import WHAT_TO_DO, Journal, Standing
from metasrv.adapters.raft.snapshot import SnapshotInfo, inspect

log = structlog.get_logger()


@dataclass
class Storage:
    """What was found. `snapshot` is None where none was ever taken."""

    journal: Journal
    snapshot: SnapshotInfo | None
    snapshot_path: Path
    lock: int
    disk: Disk

    def close(self) -> None:
        """Let go of the files and the lock."""
        self.journal.close()
        self.disk.close(self.lock)


def open_storage(config: RaftConfig, disk: Disk) -> Storage:
    """Recover from disk. Raises Damaged or ForeignCluster with what to do, BadInput when the folder is in use."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    lock = _lock(config.data_dir, disk)
    try:
        return _open(config, disk, lock)
    except BaseException:
        disk.close(lock)
        raise


def _open(config: RaftConfig, disk: Disk, lock: int) -> Storage:
    journal_path, snapshot_path = config.data_dir / "journal", config.data_dir / "snapshot"
    for leftover in (".new", ".part"):
        journal_path.with_name("journal" + leftover).unlink(missing_ok=True)
        snapshot_path.with_name("snapshot" + leftover).unlink(missing_ok=True)
    try:
        journal, snapshot = _read(config, journal_path, snapshot_path, disk)
    except Damaged as damage:
        if not config.rejoin:
            raise
        log.warning("rejoin_sets_damaged_files_aside", reason=str(damage))
        _set_aside(journal_path, snapshot_path)
        journal, snapshot = None, None
    if journal is None:
        standing = Standing.REJOINING if config.rejoin else Standing.BLANK
        journal = Journal.create(journal_path, config.cluster_id, config.node_id, standing, disk)
        log.info("journal_created", standing=standing.name.lower(), path=str(journal_path))
    elif config.rejoin and journal.standing is Standing.JOINED:
        log.info("rejoin_not_needed", reason="the journal is whole", path=str(journal_path))
    return Storage(journal, snapshot, snapshot_path, lock, disk)


def _read(
    config: RaftConfig, journal_path: Path, snapshot_path: Path, disk: Disk
) -> tuple[Journal | None, SnapshotInfo | None]:
    snapshot = inspect(snapshot_path, config.cluster_id) if snapshot_path.exists() else None
    if not journal_path.exists():
        if snapshot is not None:
            raise Damaged(f"{snapshot_path} is there and {journal_path} is not. {WHAT_TO_DO}")
        return None, None
    journal = Journal.open(journal_path, config.cluster_id, config.node_id, disk)
    try:
        _align(journal, snapshot, journal_path)
    except BaseException:
        journal.close()
        raise
    return journal, snapshot


def _align(journal: Journal, snapshot: SnapshotInfo | None, path: Path) -> None:
    """Let the journal stand on the snapshot, before the core looks at either (a crash may have come between them)."""
    covered = snapshot.index if snapshot else 1
    if journal.first_index > covered:
        raise Damaged(
            f"{path} begins at entry {journal.first_index} and the snapshot ends at {covered}: what lies between is "
            f"gone. {WHAT_TO_DO}"
        )
    if snapshot is None:
        return
    if journal.term_of(snapshot.index) == snapshot.term:
        journal.setRaftCommitIndex(snapshot.index)
        return
    journal.reset(snapshot.index, snapshot.term)
    journal.sync()


def _set_aside(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            number = 1
            while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
                number += 1
            path.rename(aside)


def _lock(folder: Path, disk: Disk) -> int:
    try:
        return disk.lock(folder / "lock")
    except BlockingIOError as error:
        raise BadInput("data_dir", f"{folder} is in use by another process") from error
