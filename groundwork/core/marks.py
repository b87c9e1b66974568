"""Rare situations, marked where they happen. In production a mark costs a call; a simulator counts which were reached.

A situation that no run reaches is one that no run has tested: the simulator's report names it.
"""

from collections.abc import Callable

_seen: list[Callable[[str], None]] = []


def mark(name: str) -> None:
    """This situation has been reached."""
    for see in _seen:
        see(name)


def watch_marks(see: Callable[[str], None] | None) -> None:
    """Call `see` with the name of every mark that is reached from now on; None: nobody looks."""
    _seen.clear()
    if see is not None:
        _seen.append(see)
