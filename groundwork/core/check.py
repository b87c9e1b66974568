"""Safety invariants that hold even under `python -O`."""

from collections.abc import Callable

_watchers: list[Callable[[str], None]] = []


class InvariantViolated(Exception):
    """A defect in this program, never an operating error: the process that sees it must stop."""


def require(condition: bool, message: str) -> None:
    """Stop the process when a safety invariant does not hold: see on_violation(). Raises where nobody watches."""
    if not condition:
        for watcher in _watchers:
            watcher(message)
        raise InvariantViolated(message)


def on_violation(watcher: Callable[[str], None] | None) -> None:
    """Call `watcher` before anybody can catch the exception: a program ends itself there. None: nobody watches."""
    _watchers.clear()
    if watcher is not None:
        _watchers.append(watcher)
