"""What a new leader may hold against a node: docs/decisions/0007, case by case.

Replica B is elected at 2,000 (term 7). dn-1 reached only A lately: B heard it last at 0.
"""

import pytest

from metasrv.core.leases import Beat, Heard, LeaseBook, Past
from metasrv.core.records import Config

LEASE_MS = Config().lease_ms
A_LED_UNTIL_1_200 = Past(term=7, led_ago_ms={"A": 800.0}, listening_ms=60_000.0)


def book_of_a_new_leader(past: Past = A_LED_UNTIL_1_200, replicas: str = "ABC") -> LeaseBook:
    """B's memory at its election; nobody has reported."""
    book = LeaseBook("B", replicas)
    book.heard(Beat("dn-1", 5), 0.0)
    book.tick(0.0, Config())
    book.elected(2_000.0, past)
    return book


def silence_ms(book: LeaseBook) -> float:
    """Of dn-1, at 2,100."""
    return book.silence_ms("dn-1", 5, 2_100.0)


def test_a_leader_that_went_on_remembers_what_it_granted() -> None:
    """P5: A only lost its leadership: all reported, and silence is counted from the last beat."""
    book = book_of_a_new_leader()
    for replica in ("A", "C"):
        book.reported(replica, [Heard("dn-2", 6, 10.0)], 2_000.0, A_LED_UNTIL_1_200)
    assert silence_ms(book) == 2_100.0


def test_a_dead_leader_granted_nothing_after_its_followers_last_heard_it() -> None:
    """P5, T1: A is dead; a grant of it needed B or C, and C heard it last, at 1,500."""
    book = book_of_a_new_leader()
    book.reported("C", [], 2_000.0, Past(7, {"A": 500.0}, 60_000.0))
    assert silence_ms(book) == 600.0


def test_where_a_quorum_without_a_witness_is_possible_the_election_counts() -> None:
    """§5: neither A nor C reports: C may have helped A to grant until B was elected."""
    assert silence_ms(book_of_a_new_leader()) == 100.0


@pytest.mark.parametrize(
    "past", [Past(6, {"A": 500.0}, 60_000.0), Past(7, {}, 300.0)], ids=["of an older term", "restarted"]
)
def test_who_cannot_vouch(past: Past) -> None:
    """§5: C may still answer A (it does not know B's term), or has forgotten when it did (it restarted)."""
    book = book_of_a_new_leader()
    book.reported("C", [], 2_000.0, past)
    assert silence_ms(book) == 100.0


def test_a_leader_that_restarted_has_forgotten_what_it_granted() -> None:
    """§5, T23: A restarted and says nothing of its grants: what its followers heard counts."""
    book = book_of_a_new_leader()
    book.reported("A", [], 2_000.0, Past(7, {}, 300.0))
    assert silence_ms(book) == 100.0, "C may have helped it to grant"
    book.reported("C", [], 2_000.0, A_LED_UNTIL_1_200)
    assert silence_ms(book) == 900.0


def test_this_leader_may_itself_have_forgotten_what_it_granted() -> None:
    """§5, T23: B led before, restarted and was elected again: the others heard it lead until 1,400."""
    book = book_of_a_new_leader(Past(7, {}, 300.0))
    book.reported("A", [], 2_000.0, Past(7, {"B": 700.0}, 60_000.0))
    assert silence_ms(book) == 100.0
    book.reported("C", [], 2_000.0, Past(7, {"B": 600.0}, 60_000.0))
    assert silence_ms(book) == 700.0


def test_t2_leaders_that_take_turns_while_a_replica_is_dead() -> None:
    """T2: A is dead for long; B and C lead in turns. No floor moves with their turns: their own hearing tells all."""
    book = book_of_a_new_leader(Past(7, {"A": 30_000.0, "C": 1.0}, 60_000.0))
    book.reported("C", [], 2_000.0, Past(7, {"A": 30_000.0, "B": 1.0}, 60_000.0))
    assert silence_ms(book) == 2_100.0


def test_of_five_replicas_two_that_are_silent_are_no_quorum() -> None:
    """§5: A and D are silent: any quorum of A's had B, C or E in it, which heard A last at 1,700."""
    book = book_of_a_new_leader(replicas="ABCDE")
    book.reported("C", [], 2_000.0, Past(7, {"A": 300.0}, 60_000.0))
    assert silence_ms(book) == 100.0, "A, D and E may have been one"
    book.reported("E", [], 2_000.0, Past(7, {"A": 700.0}, 60_000.0))
    assert silence_ms(book) == 400.0
