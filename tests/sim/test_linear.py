"""The judge of registers, held against every order of small histories."""

import itertools
import math
import random

from tests.sim.linear import FIRST, Span, contradictions

Read = tuple[int, Span]


def _by_trying(writes: dict[int, Span], reads: list[Read]) -> bool:
    """Whether some order of the operations, with any of the unanswered writes, explains all reads."""
    unanswered = [v for v, s in writes.items() if s.end == math.inf]
    for taken in itertools.product((False, True), repeat=len(unanswered)):
        left_out = {v for v, t in zip(unanswered, taken, strict=True) if not t}
        operations = [("write", v, s) for v, s in writes.items() if v not in left_out]
        operations += [("read", v, s) for v, s in reads]
        if any(_explains(order) for order in itertools.permutations(operations)):
            return True
    return False


def _explains(order: tuple[tuple[str, int, Span], ...]) -> bool:
    value = FIRST
    for n, (kind, wanted, span) in enumerate(order):
        if any(later[2].end < span.start for later in order[n + 1 :]):
            return False
        if kind == "write":
            value = wanted
        elif value != wanted:
            return False
    return True


def test_it_judges_as_trying_every_order_does() -> None:
    """Linearizability: no small history is judged otherwise than by trying all orders, and both verdicts come up."""
    chance = random.Random(1)
    verdicts = {True: 0, False: 0}
    for _ in range(400):
        times = [float(n) for n in range(12)]
        chance.shuffle(times)
        spans = [Span(*sorted(times[2 * n : 2 * n + 2])) for n in range(5)]
        writes = {1: spans[0], 2: spans[1]}
        if chance.random() < 0.5:
            writes[2] = Span(writes[2].start, math.inf)
        reads = [(chance.choice((0, 1, 2)), span) for span in spans[2 : 2 + chance.choice((1, 2, 3))]]
        fits = _by_trying(writes, reads)
        verdicts[fits] += 1
        assert (not contradictions(writes, reads)) is fits, (writes, reads)
    assert min(verdicts.values()) > 50


def test_it_names_what_contradicts() -> None:
    """A value that comes back after its successor was seen is named with the times that contradict."""
    writes = {1: Span(0, 1), 2: Span(2, 3)}
    [told] = contradictions(writes, [(2, Span(4, 5)), (1, Span(6, 7))])
    assert told.startswith("1 lasted from 1.0000 at the latest to 6.0000")
    assert contradictions(writes, [(3, Span(4, 5))]) == ["3 was read and never written"]
    assert contradictions(writes, [(2, Span(0.5, 0.75))])[0].startswith("2 was read before its write")
