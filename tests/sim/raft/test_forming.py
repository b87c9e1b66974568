"""How a cluster comes into being: with all of its replicas, so that afterwards any one of them may be missed."""

import random

from metasrv.adapters.raft import library
from metasrv.adapters.raft.journal import Standing
from metasrv.core.ports import Applied
from protos.raft.v1 import raft_pb2 as pb
from tests.sim.raft.trio import NAMES, A, B, C, Trio, trio

__all__ = ["trio"]


def _forget_wires(trio: Trio) -> None:
    for wire in trio.wires.values():
        wire.clear()


def _leaders(trio: Trio) -> list[str]:
    return [name for name, replica in trio.replicas.items() if replica.leadership().is_leader]


def _hand_over_and_die(trio: Trio, old: str, new: str) -> None:
    """`new` becomes the leader by the vote of `old`, which is gone before it can take the first entry of the term."""
    assert trio.replicas[old].hand_over(new)
    trio.replicas[old].turn()
    trio.deliver(old, new)
    while trio.replicas[old].core.leads:
        trio.replicas[new].turn()
        trio.deliver(new, old)
    trio.deliver(old, new)
    assert trio.replicas[new].core.leads
    trio.crash(old)


def test_two_go_on_however_early_the_leader_hands_over_and_dies(trio: Trio) -> None:
    """P5: a replica that is late to a new cluster counts from the first entry on, or the cluster stands still here."""
    trio.pump(A, B, seconds=20)
    _forget_wires(trio)  # c was late: whatever the others said did not reach it
    if not _leaders(trio):
        trio.elect(A)
    (old,) = _leaders(trio)
    new, third = (name for name in NAMES if name != old) if old != A else (B, C)
    trio.pump(old, new, seconds=0.3)
    _hand_over_and_die(trio, old, new)
    trio.pump(seconds=10)
    assert len(_leaders(trio)) == 1, {name: trio.replicas[name].journal.standing for name in (new, third)}
    answers = trio.propose(_leaders(trio)[0], b"two of three")
    trio.pump(seconds=0.5)
    assert isinstance(answers[0], Applied)


def test_a_new_cluster_waits_for_all_of_its_replicas(trio: Trio) -> None:
    """Two of three empty disks elect nobody, and a vote that one of them gives to the other does not make a leader."""
    trio.pump(A, B, seconds=30)
    assert _leaders(trio) == []
    trio.replicas[B]._ballot._abstaining.clear()
    trio.replicas[B]._ballot._won_term = trio.replicas[B].core.term + 1  # as if all had been asked
    trio.replicas[B].core.start_election()
    trio.pump(A, B, seconds=0.3)
    assert trio.replicas[A].journal.getVotedForNodeId() == B
    assert not trio.replicas[B].core.leads
    trio.pump(seconds=10)
    assert len(_leaders(trio)) == 1
    assert {replica.journal.standing for replica in trio.replicas.values()} == {Standing.JOINED}


def test_two_empty_disks_never_begin_another_history(trio: Trio) -> None:
    """P1: one replica was late, one lost its disk, one is off and holds what was acknowledged: the first two wait."""
    trio.pump(A, C, seconds=20)
    _forget_wires(trio)
    if not _leaders(trio):
        trio.pump(seconds=0.1)
        trio.elect(A)
        trio.wires[A, B].clear()
    (leader,) = _leaders(trio)
    other = A if leader == C else C
    answers = trio.propose(leader, b"acknowledged")
    trio.pump(leader, other, seconds=0.3)
    assert isinstance(answers[0], Applied)
    trio.crash(leader)
    trio.crash(other)
    _forget_wires(trio)
    for file in (trio.folder / other).iterdir():
        file.unlink()
    trio.boot(other)
    trio.pump(seconds=60)
    assert _leaders(trio) == []
    trio.boot(leader)
    trio.pump(seconds=20)
    assert [trio.machines[name].commands for name in NAMES] == [[b"acknowledged"]] * 3


def test_a_replica_that_rejoins_is_not_waited_for(trio: Trio) -> None:
    """Only one that has never voted is: one that is told to rejoin says so, and the others begin without it."""
    trio.crash(C)
    for file in (trio.folder / C).iterdir():
        file.unlink()
    trio.boot(C, rejoin=True)
    trio.pump(seconds=20)
    assert len(_leaders(trio)) == 1
    assert trio.replicas[C].journal.standing is Standing.JOINED


def test_no_election_without_being_asked_for(trio: Trio) -> None:
    """Time passes within a turn, too: a deadline that falls between two looks at the clock is no pre-vote.

    A replica that rejoins ended itself over this, and one that was cut off deposed the leader on its return.
    """
    chance = random.Random(1)

    def clock() -> float:
        trio.now += chance.uniform(0, 0.01)
        return trio.now

    trio.elect(A)
    trio.pump()
    library.use_clock(clock)
    term = trio.replicas[C].core.term
    for _ in range(2_000):
        trio.replicas[C].turn()
    assert trio.replicas[C].core.term == term
    trio.replicas[C].receive(A, [pb.Message(timeout_now=pb.TimeoutNow(term=term))])
    trio.replicas[C].turn()
    assert trio.replicas[C].core.term == term + 1, "it can elect: its leader may still ask for it"


def test_a_follower_that_rejoins_keeps_no_leader_alive(trio: Trio) -> None:
    """P2: a leader whose only follower does not count says so and steps down, as if it had none."""
    trio.elect(A)
    trio.pump()
    trio.crash(C)
    for file in (trio.folder / C).iterdir():
        file.unlink()
    trio.crash(B)
    trio.boot(C)
    confirmed: list[bool] = []
    trio.replicas[A].confirm(confirmed.append)
    trio.pump(seconds=5)
    assert trio.replicas[C].journal.standing is Standing.REJOINING
    assert _leaders(trio) == []
    assert confirmed == [False]
    trio.boot(B)
    trio.pump(seconds=20)
    assert len(_leaders(trio)) == 1
    assert trio.replicas[C].journal.standing is Standing.JOINED
