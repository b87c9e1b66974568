"""The model of lanes in Kafka: one topic shared by two incarnations of a node, transactional.id = the lane.

Lane 1 is sealed by two racing sealers; lane 5 belongs to the next incarnation. The coordinator may time out the
rightful writer's transaction, a late opener may come after everything, and the shared topic is trimmed.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.search import Broken, Step

LANES = (1, 5)


class KafkaRules(NamedTuple):
    """The rules of DESIGN §7; False is the text read unkindly. `read_back` is the one that is not taken."""

    grant: bool = True  # a writer acknowledges only after a grant that it asked for after its OPEN
    regrant: bool = True  # ... also after opening again
    read_back: bool = False  # after OPEN it reads back, and is out if a SEAL of its lane lies before
    reopen: bool = True  # fenced is not sealed: it reads the lane, and is out only if that holds a SEAL
    seal_looks: bool = True  # a sealer looks first for a SEAL of the lane, and again when it is fenced
    over_first: bool = True  # nobody seals before the committed end of the lane
    topic_trim: bool = True  # the topic is cut below what ALL its lanes need, not the trimmed lane only


class Actor(NamedTuple):
    """A writer or sealer; stage: new, inited, opened, on, done, out."""

    kind: str
    lane: int
    stage: str = "new"
    at: int = -1  # offset of its OPEN or SEAL
    pending: tuple[int, ...] = ()  # offsets appended and not acknowledged
    held: bool = False  # has had a grant


class Topic(NamedTuple):
    """All there is. `log` holds (O | S | E, lane) by offset."""

    log: tuple[tuple[str, int], ...] = ()
    start: int = 0  # the first offset kept
    over: bool = False  # lane 1
    holder: tuple[int, int] = (-1, -1)  # by lane: the actor whose producer epoch is the newest; -1: none
    actors: tuple[Actor, ...] = (Actor("writer", 1), Actor("writer", 5), Actor("sealer", 1), Actor("sealer", 1))
    acked: frozenset[int] = frozenset()
    covered: tuple[int, int] = (0, 0)
    timeouts: int = 1
    writes: int = 2
    trims: int = 1


class KafkaModel:
    """Steps of the topic."""

    def __init__(self, rules: KafkaRules) -> None:
        self._rules = rules

    @staticmethod
    def good(s: Topic) -> bool:
        """The next incarnation appends, and both seals are done."""
        return s.actors[1].stage == "on" and s.holder[1] == 1 and all(a.stage == "done" for a in s.actors[2:])

    def steps(self, s: Topic) -> Iterator[Step[Topic]]:
        """Everything that can happen next."""
        if not s.over:
            yield "meta: lane 1 is over (the node registers as 5)", s._replace(over=True)
        for i, a in enumerate(s.actors):
            name = f"writer{a.lane}" if a.kind == "writer" else f"sealer{'ab'[i % 2]}"
            for label, following in self._actor(s, i, a):
                yield f"{name}: {label}", following
        yield from self._trims(s)
        for li, holder in enumerate(s.holder):
            if s.timeouts and holder >= 0:
                fenced = s._replace(holder=_hold(s, li, -1), timeouts=s.timeouts - 1)
                yield f"coordinator: time-out, lane {LANES[li]}", fenced

    def _actor(self, s: Topic, i: int, a: Actor) -> Iterator[Step[Topic]]:
        over = a.lane == 1 and s.over
        seals = [n for n, record in enumerate(s.log) if record == ("S", a.lane) and n >= s.start]
        mine = s.holder[LANES.index(a.lane)] == i
        if a.stage == "new":
            yield from self._begin(s, i, a, seals)
        elif a.stage in ("inited", "on", "opened") and not mine and (a.stage != "opened" or not over):
            if a.kind == "sealer":
                stage = "new" if self._rules.seal_looks else "out"
                yield "is fenced", _become(s, i, a._replace(stage=stage))
            else:
                again = self._rules.reopen and not seals
                label = f"is fenced, reads the lane, {'opens again' if again else 'is out'}"
                yield label, _become(s, i, a._replace(stage="new" if again else "out"))
        elif a.stage == "inited":
            yield from self._mark(s, i, a)
        elif a.stage == "opened":
            refused = (self._rules.grant and over) or (self._rules.read_back and any(n < a.at for n in seals))
            label = "is refused" if refused else "gets its grant, or reads back"
            yield label, _become(s, i, a._replace(stage="out" if refused else "on", held=True))
        elif a.stage == "on" and s.writes and len(a.pending) < 2:
            appended = a._replace(pending=(*a.pending, len(s.log)))
            landed = _become(s, i, appended)._replace(log=(*s.log, ("E", a.lane)), writes=s.writes - 1)
            yield f"append lands at {len(s.log)}", landed
        if a.stage == "on" and a.pending:
            yield f"ACK {a.pending[0]}", _acknowledge(s, i, a)

    def _begin(self, s: Topic, i: int, a: Actor, seals: list[int]) -> Iterator[Step[Topic]]:
        over = a.lane == 1 and s.over
        if (a.kind == "sealer" and self._rules.over_first and not over) or (a.lane == 5 and not s.over):
            return
        if a.kind == "sealer" and self._rules.seal_looks and seals:
            yield f"finds SEAL, done at {seals[0]}", _become(s, i, a._replace(stage="done", at=seals[0]))
        else:
            inited = _become(s, i, a._replace(stage="inited"))
            yield "init_transactions", inited._replace(holder=_hold(s, LANES.index(a.lane), i))

    def _mark(self, s: Topic, i: int, a: Actor) -> Iterator[Step[Topic]]:
        stage = "done" if a.kind == "sealer" else "opened"
        record = ("S" if a.kind == "sealer" else "O", a.lane)
        if a.kind == "writer" and a.held and not self._rules.regrant:
            yield "goes on", _become(s, i, a._replace(stage="on"))
        elif s.log and s.log[-1] == record:  # equal neighbours count as one: the state space stays small
            yield f"appends {record}", _become(s, i, a._replace(stage=stage, at=len(s.log) - 1))
        else:
            marked = _become(s, i, a._replace(stage=stage, at=len(s.log)))
            yield f"appends {record}", marked._replace(log=(*s.log, record))

    def _trims(self, s: Topic) -> Iterator[Step[Topic]]:
        """Lane 1 is covered by the next owner's flush, lane 5 by its own."""
        ends = _ends(s)
        for li, lane in enumerate(LANES):
            last = max([p + 1 for p in s.acked if s.log[p][1] == lane], default=0)
            to = max([last, *(ends if lane == 1 else [])])
            if to > s.covered[li]:
                covered = (to, s.covered[1]) if li == 0 else (s.covered[0], to)
                yield f"flush: lane {lane} covered below {to}", s._replace(covered=covered)
            if s.trims:
                low = s.covered[li]
                if self._rules.topic_trim:
                    done = bool(ends) and s.covered[0] >= min(ends)
                    needs = [len(s.log)] + ([] if done else [s.covered[0]]) + ([s.covered[1]] if s.over else [])
                    low = min(needs)
                if low > s.start:
                    yield f"trim lane {lane} below {low}", _cut(s, low)


def _ends(s: Topic) -> list[int]:
    return [a.at for a in s.actors if a.kind == "sealer" and a.stage == "done"]


def _become(s: Topic, i: int, actor: Actor) -> Topic:
    return s._replace(actors=(*s.actors[:i], actor, *s.actors[i + 1 :]))


def _hold(s: Topic, li: int, who: int) -> tuple[int, int]:
    return (who, s.holder[1]) if li == 0 else (s.holder[0], who)


def _acknowledge(s: Topic, i: int, a: Actor) -> Topic | Broken:
    at = a.pending[0]
    if a.lane == 1 and any(end <= at for end in _ends(s)):
        return Broken(f"the seal of lane 1 returned {min(_ends(s))} but offset {at} was acknowledged")
    if ("S", a.lane) in s.log[:at]:
        return Broken(f"offset {at} is acknowledged behind a SEAL of its lane")
    return _become(s, i, a._replace(pending=a.pending[1:]))._replace(acked=s.acked | {at})


def _cut(s: Topic, start: int) -> Topic | Broken:
    lost = [p for p in s.acked if p < start and p >= s.covered[LANES.index(s.log[p][1])]]
    if lost:
        return Broken(f"LOST: the topic is cut below {start}, and offsets {lost} are acknowledged and not covered")
    return s._replace(start=max(s.start, start), trims=s.trims - 1)
