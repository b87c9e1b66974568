"""What a datanode's answer about one region means for the next attempt. A table, so that nothing is left to chance."""

import enum
from typing import NamedTuple

from protos.datanode.v1 import datanode_pb2 as wire
from protos.metasrv.v1 import types_pb2


class Then(enum.Enum):
    """What to do about a region after one attempt."""

    DONE = "done"
    NEWER_ROUTE = "newer_route"  # wait for a newer route, or try again after a pause: the same node may serve again
    PAUSE = "pause"  # the same node, after a pause
    GIVE_UP = "give_up"  # no attempt within a request's deadline can help


# The rows of an attempt may have been kept or not in every case but DONE: the same rows with the same times are sent
# again, and the last write of a key and time wins.
AFTER = {
    wire.DONE: Then.DONE,
    wire.STALE_EPOCH: Then.NEWER_ROUTE,
    wire.NOT_OWNER: Then.NEWER_ROUTE,
    wire.OPENING: Then.NEWER_ROUTE,
    wire.STOPPED: Then.NEWER_ROUTE,
    wire.NO_LEASE: Then.NEWER_ROUTE,
    wire.WRONG_NODE: Then.NEWER_ROUTE,
    wire.UNKNOWN_OUTCOME: Then.NEWER_ROUTE,
    wire.OVERLOADED: Then.PAUSE,
    wire.UNKNOWN_SCHEMA: Then.PAUSE,
    wire.READ_ONLY: Then.GIVE_UP,
    wire.BAD_REQUEST: Then.GIVE_UP,
}
PAUSE_MS_MIN, PAUSE_MS_MAX = 10, 500


class Refusal(NamedTuple):
    """Why an attempt did not do it. `code` is an Outcome's name, or UNREACHABLE."""

    code: str
    then: Then
    message: str
    pause_ms: float = 0.0  # at least, as the node asked
    moved_to: types_pb2.Route | None = None  # where the node says that the region is now


def refusal_of(outcome: wire.RegionOutcome) -> Refusal | None:
    """None when the region is done."""
    then = AFTER.get(outcome.outcome, Then.NEWER_ROUTE)
    if then is Then.DONE:
        return None
    known = outcome.outcome in wire.Outcome.values()
    name = wire.Outcome.Name(outcome.outcome) if known else f"OUTCOME_{outcome.outcome}"
    moved_to = outcome.moved_to if outcome.HasField("moved_to") else None
    return Refusal(name, then, outcome.message or name.lower(), float(outcome.retry_after_ms), moved_to)


def telling(before: Refusal, answer: Refusal, attempt: int, left_ms: float) -> Refusal:
    """Which of the two says why: an attempt that the caller's deadline cut says less than the refusal before it.

    Clocks differ by a little: what is left is nothing when it is less than a pause.
    """
    cut = answer.code == "NO_ANSWER" and attempt > 0 and left_ms <= PAUSE_MS_MIN
    return before if cut else answer


def pause_ms(attempt: int, asked_ms: float) -> float:
    """The pause before attempt `attempt` + 1 (from 0): doubling, bounded, at least what the node asked for."""
    return max(asked_ms, min(PAUSE_MS_MAX, PAUSE_MS_MIN << min(attempt, 10)))
