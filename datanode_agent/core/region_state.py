"""The states of a region on one datanode, and which order makes it do what. All transitions are the table below.

Theory of operation. metasrv's orders are levels, not edges: at most one order a region says what the replicated state
wants of this node, and it stands until the next. `decide` compares it with the region and names the event, if any;
the table says which state follows. Whatever takes time (a claim, a replay, waiting for the last append) is a task of
the state; when it ends it is an event too, and the standing order is looked at again. So orders may be repeated,
skipped or late:

    CLOSED     this node has nothing of it and serves nothing
    PREPARING  tails another node's lane, read-only; a migration or standby may hand the region over
    OPENING    claims and replays; writes wait
    SERVING    reads and writes, while the lease runs
    STOPPING   takes no new writes; waits for the outcome of those that it has
    STOPPED    reported its last position; neither reads nor writes until it is closed or resumed
    READ_ONLY  acknowledged entries are damaged: reads only, until an operator accepts the loss
    FAILED     could not open, or was fenced: reported, holds nothing
    DROPPING   writes its tombstone

An order with a lower epoch than the region's is always ignored. A STOP is ordered only for a region that reported
that it serves, so a higher epoch in one means a cancelled migration whose RESUME was skipped.
"""

import enum
from typing import NamedTuple


class State(enum.StrEnum):
    """See the module docstring."""

    CLOSED = "closed"
    PREPARING = "preparing"
    OPENING = "opening"
    SERVING = "serving"
    STOPPING = "stopping"
    STOPPED = "stopped"
    READ_ONLY = "read_only"
    FAILED = "failed"
    DROPPING = "dropping"


class Event(enum.StrEnum):
    """What can happen to a region: orders first, then how its own tasks end."""

    OPEN = "open"
    PREPARE = "prepare"
    STOP = "stop"
    RESUME = "resume"
    CLOSE = "close"
    DROP = "drop"
    OPENED = "opened"
    DAMAGED = "damaged"
    FAIL = "fail"
    QUIET = "quiet"  # the outcome of the last append is known
    DROPPED = "dropped"


class OrderView(NamedTuple):
    """What an order says, as far as states go. `kind` is one of the first six events."""

    kind: Event
    epoch: int
    attempt: int
    content: bytes  # the whole order: a failed region tries again when anything in it changed


class RegionView(NamedTuple):
    """What decides about an order."""

    state: State
    epoch: int
    attempt: int  # of the last PREPARE or STOP that was taken
    failed_on: bytes | None  # the order on which it failed


_S, _E = State, Event
_HOLDING = (_S.SERVING, _S.STOPPING, _S.STOPPED, _S.READ_ONLY, _S.OPENING, _S.PREPARING, _S.FAILED)

TRANSITIONS: dict[tuple[State, Event], State] = {
    (_S.CLOSED, _E.OPEN): _S.OPENING,
    (_S.FAILED, _E.OPEN): _S.OPENING,
    (_S.PREPARING, _E.OPEN): _S.OPENING,
    (_S.OPENING, _E.OPEN): _S.OPENING,  # again, under a higher epoch or with more lanes that are over
    (_S.CLOSED, _E.PREPARE): _S.PREPARING,
    (_S.FAILED, _E.PREPARE): _S.PREPARING,
    (_S.PREPARING, _E.PREPARE): _S.PREPARING,  # another attempt
    (_S.OPENING, _E.OPENED): _S.SERVING,
    (_S.OPENING, _E.DAMAGED): _S.READ_ONLY,
    (_S.SERVING, _E.DAMAGED): _S.READ_ONLY,  # rows that cannot be flushed
    (_S.SERVING, _E.STOP): _S.STOPPING,
    (_S.STOPPING, _E.STOP): _S.STOPPING,  # another attempt
    (_S.STOPPED, _E.STOP): _S.STOPPING,
    (_S.STOPPING, _E.QUIET): _S.STOPPED,
    (_S.SERVING, _E.RESUME): _S.SERVING,  # the STOP never came here
    (_S.STOPPING, _E.RESUME): _S.SERVING,
    (_S.STOPPED, _E.RESUME): _S.SERVING,
    (_S.READ_ONLY, _E.RESUME): _S.READ_ONLY,  # damaged while it was to be moved: reads go on, under the new epoch
    (_S.DROPPING, _E.DROPPED): _S.CLOSED,
    (_S.DROPPING, _E.FAIL): _S.FAILED,
    (_S.DROPPING, _E.DROP): _S.DROPPING,
    (_S.CLOSED, _E.DROP): _S.DROPPING,
    **{(state, _E.CLOSE): _S.CLOSED for state in (*_HOLDING, _S.DROPPING)},
    **{(state, _E.DROP): _S.DROPPING for state in _HOLDING},
    **{(state, _E.FAIL): _S.FAILED for state in _HOLDING if state is not _S.FAILED},
}


def follow(state: State, event: Event) -> State | None:
    """The next state, or None where the event means nothing in this one."""
    return TRANSITIONS.get((state, event))


def decide(region: RegionView, order: OrderView) -> Event | None:
    """What the standing order asks of a region now; None where it is done already, or being done."""
    state, epoch = region.state, region.epoch
    if order.kind is Event.PREPARE:
        if state is State.CLOSED or (state is State.FAILED and region.failed_on != order.content):
            return Event.PREPARE
        if state is State.PREPARING:
            return Event.PREPARE if order.attempt > region.attempt else None
        # metasrv knows another owner: what is left here must go first
        return Event.CLOSE if order.epoch >= epoch and state is not State.FAILED else None
    if order.epoch < epoch:
        return None
    if order.kind is Event.CLOSE:
        return None if state is State.CLOSED else Event.CLOSE
    if order.kind is Event.DROP:
        if state is State.DROPPING:
            return Event.DROP if order.epoch > epoch else None
        return None if state is State.FAILED and region.failed_on == order.content else Event.DROP
    if state in (State.CLOSED, State.PREPARING):
        return Event.OPEN if order.kind is not Event.STOP else None
    if state is State.FAILED:
        return Event.OPEN if order.kind is not Event.STOP and region.failed_on != order.content else None
    if order.kind is Event.OPEN:
        return _decide_open(region, order)
    if order.kind is Event.STOP:
        fresh = order.attempt > region.attempt
        return Event.STOP if fresh and state in (State.SERVING, State.STOPPING, State.STOPPED) else None
    held = (State.SERVING, State.STOPPING, State.STOPPED, State.READ_ONLY)
    return Event.RESUME if order.epoch > epoch and state in held else None


def _decide_open(region: RegionView, order: OrderView) -> Event | None:
    if region.state is State.OPENING:
        return Event.OPEN if order.epoch > region.epoch else None
    if order.epoch == region.epoch or region.state is State.DROPPING:
        return None
    # A higher epoch for what this node holds: it may have been elsewhere meanwhile, so it goes and opens anew.
    return Event.CLOSE
