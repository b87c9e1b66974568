"""Rare situations, marked where they happen. In production a mark costs a call; a simulator counts which were reached.

A situation that no run reaches is one that no run has tested: the simulator's report names it.
"""

from collections.abc import Callable

_seen: list[Callable[[str], None]] = []
_told: list[Callable[..., None]] = []


def mark(name: str) -> None:
    """This situation has been reached."""
    for see in _seen:
        see(name)


def watch_marks(see: Callable[[str], None] | None) -> None:
    """Call `see` with the name of every mark that is reached from now on; None: nobody looks."""
    _seen.clear()
    if see is not None:
        _seen.append(see)


def tell(what: str, *facts: object) -> None:
    """This has been decided, here and now: for a checker that holds decisions against each other."""
    for hear in _told:
        hear(what, *facts)


def listen(hear: Callable[..., None] | None) -> None:
    """Call `hear(what, *facts)` for every decision that is told from now on; None: nobody listens."""
    _told.clear()
    if hear is not None:
        _told.append(hear)
