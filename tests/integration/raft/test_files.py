"""Journal and snapshot on real files: what is cut, what is refused, what is never trusted."""

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwork.core.check import InvariantViolated
from groundwork.core.errors import BadInput, Damaged, ForeignCluster
from metasrv.adapters.raft import guard
from metasrv.adapters.raft.config import RaftConfig
from metasrv.adapters.raft.disk import Disk
from metasrv.adapters.raft.journal import DiskFull, Journal, Standing
from metasrv.adapters.raft.snapshot import SnapshotWriter, inspect, slices
from metasrv.adapters.raft.storage import open_storage

CLUSTER, NODE = "c" * 32, "metasrv-1"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Ten entries in five synced frames, term 3, a vote for metasrv-2."""
    made = Journal.create(tmp_path / "journal", CLUSTER, NODE, Standing.JOINED, Disk())
    made.setCurrentTerm(3, "metasrv-2")
    for index in range(2, 12):
        made.add(b"\0entry %d" % index, index, 3)
        if index % 2:
            made.sync()
    yield made
    made.close()


def again(path: Path) -> tuple[list[int], int, str | None]:
    """What a restart finds: indices, term, vote."""
    opened = Journal.open(path, CLUSTER, NODE, Disk())
    found = [entry.idx for entry in opened[:]], opened.getCurrentTerm(), opened.getVotedForNodeId()
    opened.close()
    return found


def test_everything_synced_is_found_again(journal: Journal, tmp_path: Path) -> None:
    """Entries, term and vote survive; what was not synced does not pretend to."""
    journal.add(b"\0unsynced", 12, 3)
    assert again(tmp_path / "journal") == (list(range(1, 12)), 3, "metasrv-2")


def test_a_torn_tail_is_cut_at_every_length(journal: Journal, tmp_path: Path) -> None:
    """Cut anywhere inside its last frame, a journal opens with all frames before it, and can be written again."""
    path = tmp_path / "journal"
    whole = path.read_bytes()
    last = whole.rindex(b"\xf5fr\xa1")
    for length in range(last + 1, len(whole)):
        for tail in (b"", bytes(50)):
            path.write_bytes(whole[:length] + tail)
            assert again(path) == (list(range(1, 10)), 3, "metasrv-2")
            assert path.stat().st_size == last


@pytest.mark.parametrize("damage", ["flip", "zero", "hole"])
def test_damage_in_the_middle_refuses_to_start(journal: Journal, tmp_path: Path, damage: str) -> None:
    """A bad frame with a good one behind it was durable once: no start, and a message that says what to do."""
    path = tmp_path / "journal"
    whole = bytearray(path.read_bytes())
    frames = [at for at in range(len(whole)) if whole.startswith(b"\xf5fr\xa1", at)]
    if damage == "flip":
        whole[frames[2] + 20] ^= 1
    elif damage == "zero":
        whole[frames[2] : frames[3]] = bytes(frames[3] - frames[2])
    else:
        del whole[frames[2] : frames[3]]
    path.write_bytes(bytes(whole))
    with pytest.raises(Damaged, match="--rejoin"):
        again(path)


def test_a_copied_frame_is_not_taken_for_a_frame(journal: Journal, tmp_path: Path) -> None:
    """A command may contain the bytes of a frame: torn behind it, it is still a torn tail and no damage."""
    path = tmp_path / "journal"
    size = path.stat().st_size
    journal.add(b"\0" + path.read_bytes(), 12, 3)
    journal.sync()
    os.truncate(path, path.stat().st_size - 1)
    assert again(path)[0] == list(range(1, 12))
    assert path.stat().st_size == size


def test_foreign_and_newer_journals_are_refused(journal: Journal, tmp_path: Path) -> None:
    """T20: another cluster's or another replica's journal is refused untouched; so is a format of the future."""
    path = tmp_path / "journal"
    before = path.read_bytes()
    with pytest.raises(ForeignCluster, match=CLUSTER):
        Journal.open(path, "d" * 32, NODE, Disk())
    with pytest.raises(ForeignCluster, match=NODE):
        Journal.open(path, CLUSTER, "metasrv-2", Disk())
    assert path.read_bytes() == before
    path.write_bytes(before[:8] + b"\2\0" + before[10:])
    with pytest.raises(Damaged, match="format 2"):
        again(path)


def test_cutting_the_front_survives_a_crash_at_any_step(journal: Journal, tmp_path: Path) -> None:
    """Compaction is a new file and a rename: whatever step comes last, all entries above the cut are there."""

    class Stops(Disk):
        """Fails at step `left`."""

        def __init__(self, left: int) -> None:
            self.left = left

        def _count(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

        def write(self, descriptor: int, data: bytes, offset: int) -> None:
            self._count()
            super().write(descriptor, data, offset)

        def sync(self, descriptor: int) -> None:
            self._count()
            super().sync(descriptor)

        def replace(self, source: Path, target: Path) -> None:
            self._count()
            super().replace(source, target)

    for left in itertools.count():
        opened = Journal.open(tmp_path / "journal", CLUSTER, NODE, Stops(left))
        opened.setRaftCommitIndex(8)
        try:
            opened.cut_front(6)
        except KeyboardInterrupt:
            assert again(tmp_path / "journal")[0] == list(range(1, 12))
        else:
            assert again(tmp_path / "journal") == (list(range(6, 12)), 3, "metasrv-2")
            break
        finally:
            opened.close()
    assert left == 3


def test_a_full_disk_loses_nothing(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T10: a write that does not fit leaves the file as it was, and the next sync writes everything."""
    disk = journal._disk
    monkeypatch.setattr(disk, "write", _no_space)
    journal.add(b"\0more", 12, 3)
    with pytest.raises(DiskFull):
        journal.sync()
    journal.setRaftCommitIndex(8)
    with pytest.raises(DiskFull):
        journal.cut_front(5)
    assert again(tmp_path / "journal")[0] == list(range(1, 12))
    monkeypatch.undo()
    journal.sync()
    assert again(tmp_path / "journal")[0] == list(range(1, 13))


def _no_space(descriptor: int, data: bytes, offset: int) -> None:
    os.pwrite(descriptor, data[:10], offset)
    raise OSError(errno.ENOSPC, "No space left on device")


def config(folder: Path, rejoin: bool = False) -> RaftConfig:
    """One replica of three in `folder`."""
    peers = {"metasrv-1": "127.0.0.1:1", "metasrv-2": "127.0.0.1:2", "metasrv-3": "127.0.0.1:3"}
    return RaftConfig(cluster_id=CLUSTER, node_id=NODE, peers=peers, data_dir=folder, rejoin=rejoin)


def snapshot(folder: Path, index: int, term: int) -> None:
    """Put a snapshot in place."""
    writer = SnapshotWriter(folder / "snapshot", CLUSTER, index, term, iter([b"one", b"", b"three"]), Disk())
    while not writer.step(1.0):
        pass


def test_a_snapshot_is_verified_to_the_last_byte(tmp_path: Path) -> None:
    """E13: every single flipped or missing byte is found before the state machine sees a slice of it."""
    snapshot(tmp_path, 7, 3)
    path = tmp_path / "snapshot"
    whole = path.read_bytes()
    assert list(slices(path)) == [b"one", b"", b"three"]
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 4,)) + whole[at + 1 :])
        with pytest.raises((Damaged, ForeignCluster)):
            inspect(path, CLUSTER)
        path.write_bytes(whole[:at])
        with pytest.raises(Damaged):
            inspect(path, CLUSTER)


def test_e10_snapshot_and_journal_are_brought_in_line(journal: Journal, tmp_path: Path) -> None:
    """E10: killed between the snapshot's rename and the journal's cut, a replica keeps everything behind it."""
    snapshot(tmp_path, 7, 3)
    storage = open_storage(config(tmp_path), Disk())
    assert storage.journal.last_index == 11
    assert storage.journal.getRaftCommitIndex() == 7
    storage.close()


def test_e10_a_journal_that_contradicts_the_snapshot_starts_over(journal: Journal, tmp_path: Path) -> None:
    """Killed between installing a leader's snapshot and the journal's reset: the conflicting entries go."""
    snapshot(tmp_path, 7, 5)
    storage = open_storage(config(tmp_path), Disk())
    assert [(entry.idx, entry.term) for entry in storage.journal[:]] == [(7, 5)]
    assert (storage.journal.getCurrentTerm(), storage.journal.getVotedForNodeId()) == (3, "metasrv-2")
    storage.close()


def test_a_missing_piece_refuses_to_start(journal: Journal, tmp_path: Path) -> None:
    """A journal whose beginning no snapshot covers, or a snapshot without a journal, is damage."""
    journal.setRaftCommitIndex(11)
    journal.cut_front(6)
    with pytest.raises(Damaged, match="--rejoin"):
        open_storage(config(tmp_path), Disk())
    snapshot(tmp_path, 8, 3)
    (tmp_path / "journal").unlink()
    with pytest.raises(Damaged, match="--rejoin"):
        open_storage(config(tmp_path), Disk())


def test_rejoin_sets_damaged_files_aside(journal: Journal, tmp_path: Path) -> None:
    """--rejoin keeps what it cannot read under another name, and starts over without a vote; never on a whole one."""
    storage = open_storage(config(tmp_path, rejoin=True), Disk())
    assert (storage.journal.standing, storage.journal.last_index) == (Standing.JOINED, 11)
    storage.close()
    (tmp_path / "journal").write_bytes(b"nonsense")
    storage = open_storage(config(tmp_path, rejoin=True), Disk())
    assert (storage.journal.standing, storage.journal.last_index) == (Standing.REJOINING, 1)
    assert (tmp_path / "journal.damaged-1").read_bytes() == b"nonsense"
    storage.close()
    storage = open_storage(config(tmp_path), Disk())
    assert storage.journal.standing is Standing.REJOINING, "the mark is durable"
    storage.close()


def test_a_folder_is_used_once(tmp_path: Path) -> None:
    """Two processes on one folder would be one replica that votes twice."""
    storage = open_storage(config(tmp_path), Disk())
    with pytest.raises(BadInput, match="in use"):
        open_storage(config(tmp_path), Disk())
    storage.close()


def test_t15_a_replica_may_list_itself(tmp_path: Path) -> None:
    """T15: the peers are all replicas, this one included; it is neither dialled nor counted twice."""
    made = config(tmp_path).check()
    assert (made.others, made.quorum) == (("metasrv-2", "metasrv-3"), 2)


def test_another_version_of_the_library_refuses_to_start(tmp_path: Path) -> None:
    """An upgrade of the Raft core fails loudly, naming the file, before anything runs on it."""
    (tmp_path / "syncobj.py").write_text("# another text\n")
    with pytest.raises(InvariantViolated, match="syncobj"):
        guard.check_source(tmp_path, {"syncobj.py": guard.SOURCES["syncobj.py"]})
    known = {"syncobj.py": hashlib.sha256((tmp_path / "syncobj.py").read_bytes()).hexdigest()}
    guard.check_source(tmp_path, known)
    with pytest.raises(InvariantViolated):
        guard.check_class(object)
