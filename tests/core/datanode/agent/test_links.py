"""Which replica is asked, and when the orders stream is left."""

from datanode_agent.core.links import BACKOFF_MS_FIRST, BACKOFF_MS_MAX, ReplicaChooser, StallWatch


def test_the_leader_is_preferred_once_it_is_known() -> None:
    """A beat's answer that names a new leader makes it the one to ask."""
    chooser = ReplicaChooser(("a", "b", "c"))
    assert chooser.current == "a"
    assert chooser.leader_is("c", 2)
    assert chooser.current == "c"
    assert not chooser.leader_is("c", 3)
    assert not chooser.leader_is("elsewhere", 4)


def test_an_older_term_is_no_news() -> None:
    """T4: while leadership moves, old answers arrive among new ones; the agent must not run to and fro."""
    chooser = ReplicaChooser(("a", "b", "c"))
    assert chooser.leader_is("c", 5)
    assert not chooser.leader_is("b", 4)
    assert chooser.current == "c"
    assert chooser.leader_is("b", 6)


def test_a_failed_leader_is_not_chosen_again_for_being_named_again() -> None:
    """Followers go on naming a dead leader for a while; that must not send the agent back to it."""
    chooser = ReplicaChooser(("a", "b"))
    chooser.leader_is("b", 1)
    assert chooser.failed("b") == 0.0
    assert not chooser.leader_is("b", 1)
    assert chooser.current == "a"


def test_waits_grow_by_rounds_and_are_bounded() -> None:
    """Within a round nobody waits; each whole round that failed doubles the wait up to its limit."""
    chooser = ReplicaChooser(("a", "b"))
    waits = [chooser.failed(chooser.current) for _ in range(40)]
    assert waits[0::2] == [0.0] * 20
    assert waits[1:6:2] == [BACKOFF_MS_FIRST, 2 * BACKOFF_MS_FIRST, 4 * BACKOFF_MS_FIRST]
    assert waits[-1] == BACKOFF_MS_MAX
    chooser.answered()
    assert (chooser.failed("a"), chooser.failed("b")) == (0.0, BACKOFF_MS_FIRST)


def test_a_stream_that_does_not_bring_a_granted_revision_is_stalled() -> None:
    """About one beat after a grant named a revision its orders must be there."""
    watch = StallWatch(500.0)
    assert not watch.stalled(7, 0.0)
    assert not watch.stalled(7, 499.0)
    assert watch.stalled(8, 500.0)
    assert not watch.stalled(8, 600.0)
    assert watch.stalled(8, 1_000.0)


def test_orders_that_arrive_end_the_wait() -> None:
    """A newer revision that is awaited after that is given its own time."""
    watch = StallWatch(500.0)
    watch.stalled(7, 0.0)
    watch.applied(7)
    assert not watch.stalled(9, 700.0)
    assert not watch.stalled(None, 1_300.0)
    assert not watch.stalled(9, 1_400.0)
