"""Votes of replicas that have voted before: each is on disk by itself, not by luck with something else."""

from tests.sim.raft.trio import NAMES, A, B, C, Trio, trio

__all__ = ["trio"]


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
