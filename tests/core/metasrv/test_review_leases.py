"""What a new leader may hold against a node, as far as it can know."""

from metasrv.core.leases import Beat, Heard, LeaseBook
from metasrv.core.records import Config

LEASE_MS = Config().lease_ms


def book_of_a_new_leader(listening_ms: float) -> LeaseBook:
    """B follows A, hears dn-1 last at 0, and is elected at 2,000; A reports: it has heard nothing of dn-1."""
    book = LeaseBook("B")
    book.led_by("A")
    book.heard(Beat("dn-1", 5), 0.0)
    book.tick(0.0, Config())
    book.elected(2_000.0)
    book.reported("A", [Heard("dn-2", 6, 10.0)], 2_001.0, listening_ms)
    return book


def test_a_leader_that_restarted_has_forgotten_what_it_granted() -> None:
    """DESIGN §5: A granted to dn-1, which reaches only A, and restarted: its report says nothing of that grant."""
    assert book_of_a_new_leader(listening_ms=300.0).silence_ms("dn-1", 5, 2_100.0) == 100.0


def test_a_leader_that_went_on_remembers_what_it_granted() -> None:
    """P5: A only lost its leadership: its report counts, and silence is counted from the last beat."""
    assert book_of_a_new_leader(listening_ms=60_000.0).silence_ms("dn-1", 5, 2_100.0) == 2_100.0
