"""Waiting for something that a drill can see, inside a deadline."""

import threading
import time
from collections.abc import Callable

from groundwork.core.errors import MetasrvError

POLL_S = 0.05
# A KeyboardInterrupt may be raised inside a library's callback, where it is dropped: every look asks again.
INTERRUPTED = threading.Event()
DEADLINE_S = 60.0


class DrillFailed(MetasrvError):
    """The drill could not be brought to its end: it proves nothing either way."""


def interrupt(*_: object) -> None:
    """The signal handler of a drill."""
    INTERRUPTED.set()
    raise KeyboardInterrupt


def _look() -> None:
    if INTERRUPTED.is_set():
        raise KeyboardInterrupt


def until(what: str, done: Callable[[], bool], also: Callable[[], None] | None = None,
          deadline_s: float = DEADLINE_S) -> None:  # fmt: skip
    """Wait for a condition, doing something else at every look. Raises DrillFailed at the deadline."""
    give_up = time.monotonic() + deadline_s
    while not done():
        _look()
        if also is not None:
            also()
        if time.monotonic() > give_up:
            raise DrillFailed(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(POLL_S)


def go_on(seconds: float, also: Callable[[], None]) -> None:
    """Let so many seconds go by, doing something else at every look."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        _look()
        also()
        time.sleep(POLL_S)
