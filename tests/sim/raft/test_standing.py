"""Whose votes and answers count, who leads, and what confirm() proves: a test for each rule of docs/consensus.md."""

from pathlib import Path

from metasrv.adapters.raft import library
from metasrv.adapters.raft.journal import Standing
from metasrv.core.ports import Applied
from protos.raft.v1 import raft_pb2 as pb
from tests.sim.raft.trio import NAMES, A, B, C, Trio, kinds, trio

__all__ = ["trio"]


def test_a_lost_disk_votes_only_after_catching_up(trio: Trio) -> None:
    """P1: a replica whose disk was replaced helps no candidate that lacks what it once promised, flag or no flag."""
    trio.elect(A)
    trio.pump()
    trio.pump(A, B, seconds=0.2)
    answers = trio.propose(A, b"held by a and b")
    trio.pump(A, B, seconds=0.3)
    assert isinstance(answers[0], Applied)
    trio.crash(B)
    for file in (trio.folder / B).iterdir():
        file.unlink()
    trio.crash(A)
    trio.boot(B)
    trio.now += 5
    trio.pump(B, C, seconds=20)
    assert not any(trio.replicas[name].leadership().is_leader for name in (B, C)), "they lack an acknowledged write"
    trio.boot(A)
    trio.pump(seconds=20)
    assert trio.machines[C].commands[-1] == b"held by a and b"
    assert trio.replicas[B].journal.standing is Standing.JOINED


def test_rejoining_answers_do_not_count(trio: Trio) -> None:
    """P2: a replica that rejoins neither confirms a leader nor acknowledges for it: it may have promised another."""
    trio.elect(A)
    trio.pump()
    trio.crash(B)
    for file in (trio.folder / B).iterdir():
        file.unlink()
    trio.boot(B, rejoin=True)
    answers = trio.propose(A, b"x")
    confirmed: list[bool] = []
    trio.replicas[A].confirm(confirmed.append)
    trio.pump(A, B, seconds=1)
    assert answers == []
    assert confirmed == []
    trio.pump(seconds=6)
    assert trio.replicas[B].journal.standing is Standing.JOINED


def test_an_isolated_replica_does_not_raise_terms(trio: Trio) -> None:
    """Pre-votes: a replica that was cut off comes back without deposing the leader."""
    trio.elect(A)
    trio.pump()
    term = trio.replicas[A].core.term
    trio.pump(A, B, seconds=10)
    for _ in range(200):
        trio.now += 0.05
        trio.replicas[C].turn()
        trio.pump(A, B, seconds=0.05)
    for wire in trio.wires.values():
        wire.clear()
    trio.pump(seconds=2)
    assert trio.replicas[A].leadership() == (term, A, True)


def test_a_higher_term_gets_through(trio: Trio) -> None:
    """A replica whose term did grow is heard: the leader steps down instead of ignoring it for ever."""
    trio.elect(A)
    trio.pump()
    trio.replicas[C]._filters.adopt(C, 40)
    trio.pump(seconds=5)
    terms = {trio.replicas[name].core.term for name in NAMES}
    assert len(terms) == 1
    assert min(terms) >= 40
    assert sum(trio.replicas[name].leadership().is_leader for name in NAMES) == 1


def test_a_deposed_leader_cannot_confirm(trio: Trio) -> None:
    """P2: once another leads, the old one's confirm() fails, however alive it feels."""
    trio.elect(A)
    trio.pump()
    trio.pump(B, C, seconds=1.2)
    trio.elect(B, B, C)
    assert trio.replicas[A].leadership().is_leader
    confirmed: list[bool] = []
    trio.replicas[A].confirm(confirmed.append)
    for pair in ((B, A), (C, A)):
        trio.wires[pair].clear()
    trio.pump(seconds=1)
    assert confirmed == [False]


def test_confirm_needs_a_round_begun_after_the_call(trio: Trio) -> None:
    """P2: the answer to a round that was on its way already does not count for a later call."""
    trio.elect(A)
    trio.pump()
    first: list[bool] = []
    second: list[bool] = []
    trio.replicas[A].confirm(first.append)
    trio.replicas[A].turn()
    trio.replicas[A].confirm(second.append)
    trio.deliver(A, B)
    trio.deliver(B, A)
    assert (first, second) == ([True], [])
    trio.deliver(A, B)
    trio.deliver(B, A)
    assert second == [True]


def test_only_answers_of_this_very_term_confirm(trio: Trio) -> None:
    """P2: an answer from another term is no answer, and a replica that does not know the term gives none."""
    trio.elect(A)
    trio.pump()
    leader = trio.replicas[A]
    confirmed: list[bool] = []
    leader.confirm(confirmed.append)
    leader.turn()
    asked = next(message.confirm_request for message in trio.wires[A, B] if message.HasField("confirm_request"))
    late = pb.ConfirmReply(term=asked.term - 1, round=asked.round)
    leader.receive(B, [pb.Message(confirm_reply=late)])
    leader.turn()
    assert confirmed == []
    trio.wires[C, A].clear()
    trio.replicas[C].receive(A, [pb.Message(confirm_request=pb.ConfirmRequest(term=asked.term + 1, round=9))])
    trio.replicas[C].turn()
    assert "confirm_reply" not in kinds(list(trio.wires[C, A]))


def test_leadership_is_told_only_after_the_own_no_op(trio: Trio) -> None:
    """An elected leader that has not applied its own first entry does not know yet what is committed."""
    trio.now += 1.1
    for name in (B, C):
        trio.replicas[name].core.postpone_election(9)
    trio.replicas[A].core.start_election()
    trio.replicas[A].turn()
    for _ in range(2):
        for other in (B, C):
            trio.deliver(A, other)
            trio.deliver(other, A)
        trio.replicas[A].turn()
    assert trio.replicas[A].core.leads
    assert not trio.replicas[A].leadership().is_leader
    trio.pump(seconds=0.3)
    assert trio.replicas[A].leadership().is_leader


def test_a_single_replica_leads_by_itself(tmp_path: Path) -> None:
    """One replica is its own quorum, on disk."""
    alone = Trio(tmp_path, peers=(A,))
    try:
        alone.now += 3
        alone.replicas[A].turn()
        alone.replicas[A].turn()
        answers = alone.propose(A, b"x")
        confirmed: list[bool] = []
        alone.replicas[A].confirm(confirmed.append)
        alone.replicas[A].turn()
        alone.replicas[A].turn()
        assert isinstance(answers[0], Applied)
        assert confirmed == [True]
    finally:
        alone.crash(A)
        library.use_clock()


def test_t23_all_replicas_restart_at_once_200_times(trio: Trio) -> None:
    """T23: power off for all three, 200 times; each time one leads again and everything acknowledged is there."""
    acked: list[bytes] = []
    for number in range(200):
        for name in NAMES:
            trio.crash(name)
        for name in NAMES:
            trio.boot(name)
        for _ in range(20):
            trio.pump(seconds=0.5)
            leaders = [name for name in NAMES if trio.replicas[name].leadership().is_leader]
            if leaders:
                break
        answers = trio.propose(leaders[0], b"%d" % number)
        trio.pump(seconds=0.1)
        assert isinstance(answers[0], Applied)
        acked.append(b"%d" % number)
        assert trio.machines[leaders[0]].commands == acked
