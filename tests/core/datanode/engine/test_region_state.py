"""The table of region states, and what a standing order asks of each."""

import itertools

from datanode_agent.core.region_state import TRANSITIONS, Event, OrderView, RegionView, State, decide, follow

ORDERS = (Event.OPEN, Event.PREPARE, Event.STOP, Event.RESUME, Event.CLOSE, Event.DROP)


def ask(
    state: State, kind: Event, epoch: int = 10, order_epoch: int = 10, attempt: int = 0, order_attempt: int = 0
) -> Event | None:
    """What an order asks."""
    return decide(RegionView(state, epoch, attempt, None), OrderView(kind, order_epoch, order_attempt, b""))


def test_every_decision_is_a_transition() -> None:
    """Whatever decide() names, the table knows, for every state, order, epoch and attempt."""
    for state, kind, epoch, attempt in itertools.product(State, ORDERS, (9, 10, 11), (0, 5)):
        event = ask(state, kind, order_epoch=epoch, attempt=3, order_attempt=attempt)
        if event is not None:
            assert follow(state, event) is not None, (state, kind, epoch, attempt, event)


def test_older_epochs_ask_nothing() -> None:
    """No order with a lower epoch changes anything, but for a PREPARE where nothing is held."""
    for state, kind in itertools.product(State, ORDERS):
        event = ask(state, kind, order_epoch=9)
        assert event is None or (kind is Event.PREPARE and state in (State.CLOSED, State.PREPARING, State.FAILED))


def test_orders_are_levels() -> None:
    """An order that has been carried out asks nothing more."""
    assert ask(State.SERVING, Event.OPEN) is None
    assert ask(State.SERVING, Event.RESUME) is None
    assert ask(State.STOPPED, Event.STOP, attempt=5, order_attempt=5) is None
    assert ask(State.PREPARING, Event.PREPARE, attempt=5, order_attempt=5) is None
    assert ask(State.CLOSED, Event.CLOSE) is None
    assert ask(State.OPENING, Event.OPEN) is None


def test_a_higher_epoch_opens_anew() -> None:
    """An OPEN under a higher epoch never goes on in an old stay: only RESUME does, and it needs a held region."""
    for state in (State.SERVING, State.STOPPING, State.STOPPED, State.READ_ONLY):
        assert ask(state, Event.OPEN, order_epoch=11) is Event.CLOSE
    for state in (State.SERVING, State.STOPPING, State.STOPPED):
        assert ask(state, Event.RESUME, order_epoch=11) is Event.RESUME
    assert ask(State.CLOSED, Event.RESUME, order_epoch=11) is Event.OPEN


def test_a_failed_region_waits_for_another_order() -> None:
    """The order on which it failed asks nothing; one that differs in anything does."""
    failed = RegionView(State.FAILED, 10, 0, b"as it was")
    assert decide(failed, OrderView(Event.OPEN, 10, 0, b"as it was")) is None
    assert decide(failed, OrderView(Event.OPEN, 10, 0, b"with more lanes over")) is Event.OPEN


def test_close_and_drop_reach_every_state() -> None:
    """Whatever a region does, it can be taken away."""
    for state in State:
        if state not in (State.CLOSED, State.DROPPING):
            assert TRANSITIONS[state, Event.CLOSE] is State.CLOSED
            assert TRANSITIONS[state, Event.DROP] is State.DROPPING
