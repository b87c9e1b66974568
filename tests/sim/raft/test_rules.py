"""One test for each hardening rule, named as in docs/consensus.md: each tells what goes wrong without it."""

import errno

import pytest

from groundwork.core.check import InvariantViolated
from groundwork.core.errors import NotLeader, Unknown
from metasrv.adapters.raft import codec
from metasrv.core.ports import Applied
from protos.raft.v1 import raft_pb2 as pb
from tests.sim.raft.crashing_disk import PowerLost
from tests.sim.raft.trio import NAMES, A, B, C, Trio, kinds, trio

__all__ = ["trio"]


def append(
    term: int, before: tuple[int, int], entries: list[tuple[int, int]], commit: int, sequence: int = 1
) -> pb.Message:
    """A leader's message: entries of (index, term) after `before` = (index, term)."""
    return pb.Message(
        append_entries=pb.AppendEntries(
            term=term,
            commit_index=commit,
            prev_log_index=before[0],
            prev_log_term=before[1],
            entries=[pb.Entry(index=index, term=of, payload=b"\0e%d" % index) for index, of in entries],
            sequence=sequence,
        )
    )


def test_t11_a_vote_leaves_only_after_it_is_durable(trio: Trio) -> None:
    """T11: killed between vote and fsync, a replica has told nobody: it may vote again, for anyone."""
    trio.now += 1.1
    trio.replicas[A].core.start_election()
    trio.replicas[B].core.postpone_election(9)
    trio.replicas[C].core.postpone_election(9)
    trio.replicas[A].turn()
    for other in (B, C):
        trio.deliver(A, other)
        trio.deliver(other, A)
    trio.replicas[A].turn()
    assert "request_vote" in kinds(list(trio.wires[A, B]))
    trio.disks[B].steps_left = 1  # the write succeeds, the sync does not
    with pytest.raises(PowerLost):
        trio.deliver(A, B)
    assert "response_vote" not in kinds(list(trio.wires[B, A]))
    trio.crash(B)


def test_t11_a_durable_vote_is_kept(trio: Trio) -> None:
    """T11: what did leave is remembered: after a restart there is no second vote in the same term."""
    trio.elect(A)
    term = trio.replicas[A].core.term
    voter = next(name for name in (B, C) if trio.replicas[name].journal.getVotedForNodeId() == A)
    trio.crash(voter)
    replica = trio.boot(voter)
    other = C if voter == B else B
    vote = pb.RequestVote(term=term, last_log_index=99, last_log_term=term)
    replica.receive(other, [pb.Message(request_vote=vote)])
    replica.turn()
    assert kinds(list(trio.wires[voter, other])) == []
    assert replica.journal.getVotedForNodeId() == A


def test_t12_a_commit_index_on_disk_proves_nothing(trio: Trio) -> None:
    """T12, E6: restarted alone, a replica applies nothing beyond its snapshot until a quorum says so again."""
    trio.elect(A)
    trio.propose(A, *(b"%d" % number for number in range(20)))
    trio.pump()
    for name in NAMES:
        trio.crash(name)
    replica = trio.boot(A)
    replica.turn()
    assert replica.journal.last_index > 20
    assert replica.core.raftCommitIndex == 1
    assert trio.machines[A].entries == []


def test_e1_commit_goes_no_further_than_the_message_proves(trio: Trio) -> None:
    """E1: entries of a deposed leader behind the matching place are not committed by a heartbeat's commit index."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(2, 1), (3, 1), (4, 1)], commit=1)])
    replica.turn()
    replica.receive(C, [append(2, (2, 1), [], commit=4, sequence=9)])
    replica.turn()
    assert replica.core.raftCommitIndex == 2, "3 and 4 are not known to be in the leader's log"


def test_e1_no_commit_while_a_snapshot_streams(trio: Trio) -> None:
    """E1: a chunk of a snapshot says that the leader lives, and nothing of this replica's own log."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(2, 1), (3, 1)], commit=1)])
    chunk = pb.SnapshotChunk(term=2, index=50, index_term=2, data=b"x", total_bytes=100, sequence=1)
    replica.receive(C, [pb.Message(snapshot_chunk=chunk)])
    replica.turn()
    assert (replica.core.raftCommitIndex, replica.core.term) == (1, 2)


def test_e2_a_message_from_the_past_truncates_nothing(trio: Trio) -> None:
    """E2: entries sent again from a lower place match what is there: what was acknowledged behind them stays."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(2, 1), (3, 1), (4, 1), (5, 1)], commit=1)])
    replica.turn()
    replica.receive(B, [append(1, (1, 0), [(2, 1)], commit=1, sequence=2)])
    replica.turn()
    assert replica.journal.last_index == 5
    trio.crash(A)
    assert trio.boot(A).journal.last_index == 5


def test_e2_a_real_conflict_does_truncate(trio: Trio) -> None:
    """Raft 5.3: an entry of another term at an index takes the place of it and of all behind it, durably."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(2, 1), (3, 1), (4, 1)], commit=1)])
    replica.receive(C, [append(2, (2, 1), [(3, 2)], commit=1)])
    replica.turn()
    assert [(entry.idx, entry.term) for entry in replica.journal[:]] == [(1, 0), (2, 1), (3, 2)]
    trio.crash(A)
    assert [(entry.idx, entry.term) for entry in trio.boot(A).journal[:]] == [(1, 0), (2, 1), (3, 2)]


def test_nothing_committed_is_ever_truncated(trio: Trio) -> None:
    """P1: a leader that contradicts a committed entry is a defect: this replica stops rather than follow it."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(2, 1), (3, 1)], commit=3)])
    replica.turn()
    replica.receive(C, [append(2, (1, 0), [(2, 2)], commit=1)])
    with pytest.raises(InvariantViolated, match="committed"):
        replica.turn()


def test_a_committed_entry_is_not_contradicted_either(trio: Trio) -> None:
    """P1: nor is a leader followed that names another term for an entry that is committed here."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(2, 1), (3, 1)], commit=3)])
    replica.turn()
    replica.receive(C, [append(2, (3, 2), [(4, 2)], commit=3)])
    with pytest.raises(InvariantViolated, match="contradicts"):
        replica.turn()


def test_e3_an_answer_from_an_older_term_does_not_count(trio: Trio) -> None:
    """E3: acknowledgements name the term they were made in; a later leadership does not take them for its own."""
    trio.elect(A)
    trio.pump()
    leader = trio.replicas[A]
    answers = trio.propose(A, b"x")
    leader.turn()
    late = pb.NextIndex(term=leader.core.term - 1, next_index=leader.journal.last_index + 1, success=True, sequence=999)
    leader.receive(B, [pb.Message(next_index=late)])
    leader.turn()
    assert answers == []
    leader.receive(B, [pb.Message(next_index=pb.NextIndex(
        term=leader.core.term, next_index=leader.journal.last_index + 1, success=True, sequence=999))])  # fmt: skip
    leader.turn()
    assert isinstance(answers[0], Applied)


def test_votes_are_counted_by_voter(trio: Trio) -> None:
    """A vote that arrives twice is one vote: two of five would elect a leader otherwise."""
    trio.elect(B)
    candidate = trio.replicas[A]
    delivered: list[dict[str, object]] = []
    candidate._filters.setOnMessageReceivedCallback(lambda node, message: delivered.append(message))
    vote = pb.Message(response_vote=pb.ResponseVote(term=candidate.core.term))
    candidate._filters.receive(B, vote)
    candidate._filters.receive(B, vote)
    assert len(delivered) == 1


def test_e15_a_stale_reset_is_fenced(trio: Trio) -> None:
    """E15, E2: two resets that answer messages of the same moment rewind the leader once, not for ever."""
    trio.elect(A)
    trio.pump()
    leader = trio.replicas[A]
    trio.propose(A, *(b"%d" % number for number in range(10)))
    leader.turn()
    reset = pb.NextIndex(term=leader.core.term, next_index=3, reset=True, sequence=leader._filters.sequence)
    leader.receive(B, [pb.Message(next_index=reset)])
    leader.turn()
    leader.core.send_entries()
    ahead = leader.core.next_index(B)
    leader.receive(B, [pb.Message(next_index=reset)])
    leader.turn()
    assert leader.core.next_index(B) == ahead > 3


def test_e14_a_snapshot_older_than_the_log_is_not_installed(trio: Trio) -> None:
    """E14: a late snapshot that ends within a longer, acknowledged log leaves that log alone."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(index, 1) for index in range(2, 12)], commit=1)])
    replica.turn()
    trio.wires[A, B].clear()
    chunk = pb.SnapshotChunk(term=1, index=6, index_term=1, data=b"whatever", total_bytes=8, sequence=2)
    replica.receive(B, [pb.Message(snapshot_chunk=chunk)])
    replica.turn()
    assert replica.journal.last_index == 11
    assert [message.next_index.next_index for message in trio.wires[A, B]] == [7], "where the logs are known to match"


def test_a_tail_that_contradicts_is_replaced_from_where_the_snapshot_ends(trio: Trio) -> None:
    """Found by the simulation: told to go on at the follower's end, a leader met the same conflict for ever."""
    replica = trio.replicas[A]
    replica.receive(B, [append(1, (1, 0), [(index, 1) for index in range(2, 12)], commit=1)])
    replica.receive(C, [append(2, (10, 2), [(11, 2)], commit=8, sequence=1)])  # the conflict: far back, one run of 1
    replica.turn()
    chunk = pb.SnapshotChunk(term=2, index=8, index_term=1, data=b"whatever", total_bytes=8, sequence=2)
    replica.receive(C, [pb.Message(snapshot_chunk=chunk)])
    replica.turn()
    replies = [message.next_index for message in trio.wires[A, C] if message.HasField("next_index")]
    assert [reply.next_index for reply in replies] == [2, 9]
    replica.receive(C, [append(2, (8, 1), [(9, 2), (10, 2)], commit=8, sequence=3)])
    replica.turn()
    assert [entry.term for entry in replica.journal[-3:]] == [1, 2, 2]


def test_e11_a_command_never_poisons_the_log(trio: Trio) -> None:
    """E11: entry kinds that the library would unpickle are refused on the wire and never applied."""
    bad = append(1, (1, 0), [(2, 1)], commit=2)
    for kind in (2, 3, 99):
        bad.append_entries.entries[0].payload = bytes((kind,)) + b"cos\nsystem\n(S'true'\ntR."
        trio.replicas[A].receive(B, [bad])
        trio.replicas[A].turn()
    assert trio.replicas[A].journal.last_index == 1
    assert trio.machines[A].entries == []


def test_forwarded_commands_and_administration_have_no_encoding() -> None:
    """The library's apply_command, its pickled oversized entries and its admin messages cannot leave a replica."""
    for kind in ("apply_command", "apply_command_response", "add", "remove", "set_version", "status"):
        with pytest.raises(InvariantViolated):
            codec.encode({"type": kind, "command": b"x", "request_id": 1})
    with pytest.raises(InvariantViolated):
        codec.encode({"type": "append_entries", "transmission": "start", "data": b"", "term": 1, "prevLogIdx": 1})


def test_a_deposed_leader_says_unknown_or_not_leader(trio: Trio) -> None:
    """What was in the log may still commit (Unknown); what another entry displaced certainly did not (NotLeader)."""
    trio.elect(A)
    trio.pump()
    answers = trio.propose(A, b"in the log")
    trio.replicas[A].turn()
    term = trio.replicas[A].core.term
    trio.replicas[A].receive(B, [append(term + 1, (1, 0), [], commit=1)])
    trio.replicas[A].turn()
    late = trio.propose(A, b"after")
    assert [type(answer) for answer in answers + late] == [Unknown, NotLeader]


def test_full_disk_makes_a_leader_step_down(trio: Trio) -> None:
    """T10: with no space left a leader acknowledges nothing, stops leading, and follows again when there is space."""
    trio.elect(A)
    trio.pump()
    trio.disks[A].full = True
    answers = trio.propose(A, b"no room")
    trio.replicas[A].turn()
    assert not trio.replicas[A].leadership().is_leader
    assert [type(answer) for answer in answers] == [Unknown]
    trio.pump(seconds=5)
    new = next(name for name in (B, C) if trio.replicas[name].leadership().is_leader)
    kept = trio.propose(new, b"room here")
    trio.pump(seconds=1)
    assert isinstance(kept[0], Applied)
    trio.disks[A].full = False
    trio.pump(seconds=3)
    assert trio.machines[A].commands == trio.machines[new].commands
    trio.crash(A)
    assert trio.boot(A).journal.last_index == trio.replicas[new].journal.last_index


def test_a_failed_sync_is_not_survived(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync errors: the pages may be gone though the next fsync succeeds; nothing leaves, the error reaches the top."""

    def sync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    trio.elect(A)
    trio.pump()
    monkeypatch.setattr(trio.disks[B], "sync", sync)
    trio.propose(A, b"x")
    trio.replicas[A].turn()
    with pytest.raises(OSError, match="Input/output"):
        trio.deliver(A, B)
    assert kinds(list(trio.wires[B, A])) == []
