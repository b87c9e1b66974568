"""Snapshots of one's own and for others: in slices, within bounds, and never instead of what is needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from metasrv.adapters.raft import library
from metasrv.core.ports import Applied
from tests.sim.raft.trio import A, B, C, Trio


@pytest.fixture
def told(tmp_path: Path) -> Iterator[list[Trio]]:
    """Trios made by a test, taken down after it."""
    made: list[Trio] = []
    yield made
    for trio in made:
        for name in list(trio.replicas):
            trio.crash(name)
    library.use_clock()


def test_a_snapshot_takes_many_short_turns(told: list[Trio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn works at a snapshot for a tenth of an election, and writes go on between its slices without showing."""
    trio = Trio(tmp_path, journal_entries_max=300, journal_tail_entries=0, snapshot_turn_ms=2)
    told.append(trio)
    trio.elect(A)
    machine = trio.machines[A]
    frozen_at: list[int] = []
    plain = machine.snapshot

    def slow() -> Iterator[bytes]:
        frozen_at.append(len(machine.entries))
        for piece in list(plain()):
            trio.now += 0.0005
            yield piece

    monkeypatch.setattr(machine, "snapshot", slow)
    trio.propose(A, *(b"%d" % number for number in range(320)))
    leader, turns, longest = trio.replicas[A], 0, 0.0
    while not (tmp_path / A / "snapshot").exists():
        trio.pump(A, B, seconds=0.05)
        before = trio.now
        leader.turn()
        turns += bool(frozen_at)
        longest = max(longest, trio.now - before)
        trio.propose(A, b"meanwhile")
    assert turns > 5
    assert longest * 10 <= 1.0, "an election time-out is one second here"
    trio.crash(A)
    trio.boot(A)
    assert len(trio.machines[A].entries) == frozen_at[0]


def test_big_commands_are_compacted_by_bytes(told: list[Trio], tmp_path: Path) -> None:
    """Few but big entries must not fill the memory until there are as many as the limit of entries says."""
    trio = Trio(tmp_path, journal_bytes_max=100_000, command_bytes_max=20_000)
    told.append(trio)
    trio.elect(A)
    for number in range(40):
        answers = trio.propose(A, b"%d" % number + bytes(15_000))
        trio.pump(seconds=0.2)
        assert isinstance(answers[0], Applied)
    for replica in trio.replicas.values():
        assert replica.journal.payload_bytes < 200_000
        assert replica.journal.size_bytes < 300_000


def test_a_full_disk_keeps_the_journal_whole(told: list[Trio], tmp_path: Path) -> None:
    """A snapshot that does not fit is given up; the journal is not cut before one is in place."""
    trio = Trio(tmp_path, journal_entries_max=20, journal_tail_entries=0)
    told.append(trio)
    trio.elect(A)
    trio.propose(A, *(b"%d" % number for number in range(15)))
    trio.pump()
    trio.disks[B].full = True
    trio.propose(A, *(b"%d" % number for number in range(15, 40)))
    trio.pump(seconds=2)
    trio.disks[B].full = False
    trio.pump(seconds=15)
    assert trio.machines[B].commands == trio.machines[A].commands
    trio.crash(B)
    trio.boot(B)
    trio.pump(seconds=3)
    assert trio.machines[B].commands == trio.machines[A].commands


def test_a_transfer_stays_within_its_window(told: list[Trio], tmp_path: Path) -> None:
    """A follower that does not answer is sent no more than the window, and hears a leader meanwhile."""
    trio = Trio(tmp_path, journal_entries_max=50, journal_tail_entries=0, chunk_bytes=64, chunks_in_flight_max=3)
    told.append(trio)
    trio.elect(A)
    trio.pump(seconds=0.5)
    trio.crash(C)
    trio.propose(A, *(b"%d" % number for number in range(200)))
    trio.pump(A, B, seconds=2)
    trio.boot(C)
    trio.pump(A, B, seconds=0.2)
    for _ in range(3):
        trio.deliver(A, C)
        trio.deliver(C, A, 1)
        trio.replicas[A].turn()
    trio.wires[C, A].clear()
    trio.pump(A, B, seconds=0.5)
    data = [message.snapshot_chunk for message in trio.wires[A, C] if message.HasField("snapshot_chunk")]
    assert data
    assert sum(len(chunk.data) for chunk in data) <= 3 * 64
    trio.pump(seconds=6)
    assert trio.machines[C].commands == trio.machines[A].commands


def test_a_follower_far_behind_is_not_flooded(told: list[Trio], tmp_path: Path) -> None:
    """What one turn sends to one peer is bounded, though the core would send its whole journal at once."""
    trio = Trio(tmp_path, command_bytes_max=1000, peer_window_bytes=4000)
    told.append(trio)
    trio.elect(A)
    trio.pump()
    trio.crash(C)
    for _ in range(10):
        trio.propose(A, *(bytes(900) for _ in range(10)))
        trio.pump(A, B, seconds=0.2)
    trio.boot(C)
    trio.replicas[A].turn()
    trio.wires[A, C].clear()
    most = 0
    for _ in range(200):
        trio.now += 0.05
        for name in (A, B, C):
            trio.replicas[name].turn()
        most = max(most, sum(message.ByteSize() for message in trio.wires[A, C]))
        for pair in list(trio.wires):
            trio.deliver(*pair)
    assert trio.machines[C].commands == trio.machines[A].commands
    assert most <= 3 * (4000 + 3000), "a window, a message over it, and the turns between two deliveries"
