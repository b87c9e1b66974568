"""Votes of replicas that have voted before: each is on disk by itself, not by luck with something else."""

import pytest

from metasrv.adapters.raft.journal import Standing
from protos.raft.v1 import raft_pb2 as pb
from tests.sim.raft.crashing_disk import PowerLost
from tests.sim.raft.trio import NAMES, A, B, C, Trio, kinds, trio

__all__ = ["trio"]


def votes(trio: Trio, voter: str, candidate: str, term: int) -> bool:
    """Ask a replica for its vote, and nothing else of it: whether its answer has left at the end of that turn."""
    log_is_longer = pb.RequestVote(term=term, last_log_index=99, last_log_term=term)
    trio.wires[voter, candidate].clear()
    trio.replicas[voter].receive(candidate, [pb.Message(request_vote=log_is_longer)])
    trio.replicas[voter].turn()
    return "response_vote" in kinds(list(trio.wires[voter, candidate]))


def next_term(trio: Trio) -> int:
    """After an election of A: C has nothing else to write than its next vote, its standing least of all."""
    term = trio.elect(A).core.term
    trio.pump()
    journal = trio.replicas[C].journal
    assert journal.standing is Standing.JOINED
    assert not journal.dirty
    return term + 1


def test_t11_no_second_vote_in_a_later_term(trio: Trio) -> None:
    """T11, E9: power goes right after the answer has left; started again, the voter gives the term to nobody else."""
    term = next_term(trio)
    assert votes(trio, C, B, term)
    trio.crash(C)
    trio.boot(C)
    assert not votes(trio, C, A, term), "two votes in one term"
    assert votes(trio, C, A, term + 1), "it can vote in the next one"


def test_t11_a_candidate_that_restarts_helps_no_other(trio: Trio) -> None:
    """T11, E9: who asked for votes has voted for itself, and for nobody else in that term once it is started again."""
    term = next_term(trio)
    trio.now += 1.1
    trio.replicas[C].core.start_election()
    trio.replicas[C].turn()  # asks whether an election would be won
    trio.deliver(C, B)
    trio.deliver(B, C)
    trio.replicas[C].turn()
    assert trio.replicas[C].core.term == term
    assert "request_vote" in kinds(list(trio.wires[C, A]))
    trio.crash(C)
    trio.boot(C)
    assert not votes(trio, C, A, term), "two votes in one term"


@pytest.mark.parametrize("steps", [0, 1], ids=["in the write", "before the sync"])
def test_t11_a_later_vote_leaves_only_after_it_is_durable(trio: Trio, steps: int) -> None:
    """T11: no vote is told of before it is written and synced, whatever else there may be to write."""
    term = next_term(trio)
    trio.disks[C].steps_left = steps
    with pytest.raises(PowerLost):
        votes(trio, C, B, term)
    assert "response_vote" not in kinds(list(trio.wires[C, B]))


def test_t11_a_later_vote_is_kept(trio: Trio) -> None:
    """T11, E9: power goes after a vote of a second term; the voter remembers the term and whom it voted for."""
    trio.elect(A)
    trio.pump()
    trio.elect(B, B, C)
    term = trio.replicas[B].core.term
    assert trio.replicas[C].journal.getVotedForNodeId() == B
    trio.crash(C)
    replica = trio.boot(C)
    assert replica.journal.getCurrentTerm() == term
    assert replica.journal.getVotedForNodeId() == B


def test_t11_a_term_that_was_only_heard_of_is_kept(trio: Trio) -> None:
    """T11: a replica that took over a newer term forgets it in no power loss: it never votes below it again."""
    trio.elect(A)
    trio.elect(B, B, C)
    trio.pump()
    terms = {name: trio.replicas[name].core.term for name in NAMES}
    for name in NAMES:
        trio.crash(name)
    for name in NAMES:
        assert trio.boot(name).journal.getCurrentTerm() == terms[name]
