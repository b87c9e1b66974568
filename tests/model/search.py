"""Breadth-first search over every interleaving of a small model, so that the first counter-example is a shortest one.

A model is a function from a state to its steps: (label, next state | Broken | None). States are hashable values. With
`good`, every reachable state must have a continuation to a good one (AG EF good): nothing gets stuck for ever.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

State = TypeVar("State", bound=Hashable)


class Broken(NamedTuple):
    """A step after which an invariant no longer holds."""

    why: str


class Found(NamedTuple):
    """What a search found. `broken` is None when all of `states` were searched and every invariant held."""

    states: int
    exhausted: bool
    broken: str | None
    trace: tuple[str, ...]


Step = tuple[str, State | Broken | None]


def search(
    start: State,
    steps: Callable[[State], Iterable[Step[State]]],
    good: Callable[[State], bool] | None = None,
    states_max: int = 400_000,
) -> Found:
    """Search all states that can be reached from `start`, up to `states_max` of them."""
    came: dict[State, tuple[State, str] | None] = {start: None}
    todo: deque[State] = deque([start])
    before: dict[State, list[State]] = {}
    while todo:
        if len(came) > states_max:
            return Found(len(came), False, None, ())
        state = todo.popleft()
        for label, following in steps(state):
            if following is None or following == state:
                continue
            if isinstance(following, Broken):
                return Found(len(came), True, following.why, (*_trace(came, state), label))
            if good:
                before.setdefault(following, []).append(state)
            if following not in came:
                came[following] = (state, label)
                todo.append(following)
    stuck = _stuck(came, before, good) if good else None
    if stuck is not None:
        return Found(len(came), True, "STUCK: no continuation ever serves again", _trace(came, stuck))
    return Found(len(came), True, None, ())


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    labels: list[str] = []
    while (link := came[state]) is not None:
        state, label = link
        labels.append(label)
    return tuple(reversed(labels))


def _stuck(
    came: dict[State, tuple[State, str] | None], before: dict[State, list[State]], good: Callable[[State], bool]
) -> State | None:
    """The first state, in breadth-first order, from which no good state can be reached."""
    alive = deque(s for s in came if good(s))
    seen = set(alive)
    while alive:
        for earlier in before.get(alive.popleft(), ()):
            if earlier not in seen:
                seen.add(earlier)
                alive.append(earlier)
    return next((s for s in came if s not in seen), None)


def put_at(items: tuple[object, ...], at: int, value: object) -> tuple[object, ...]:
    """A tuple with one item replaced."""
    return (*items[:at], value, *items[at + 1 :])


def report(title: str, found: Found) -> Iterator[str]:
    """Lines for people: what was searched, and the trace of what broke."""
    how = "exhausted" if found.exhausted else "CUT at the limit"
    yield f"{title}: {found.states:,} states, {how}: {found.broken or 'holds'}"
    for n, label in enumerate(found.trace, 1):
        yield f"    {n:2} {label}"
