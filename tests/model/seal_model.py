"""The model of a lane in object storage: one writer, two sealers, two trims, replies that get lost.

Every rule is a flag; with all on it is what groundwork/adapters/lanes does. Deletes happen one by one in any order, a
trim order may be carried out late, and messages to the writer that its lane is over never arrive: it is a zombie.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.search import Broken, Step

WINDOW = 2


class SealRules(NamedTuple):
    """What the adapters do; False is the text read unkindly."""

    first_gap: bool = True  # the seal goes to the lowest absent seq, not behind the highest present
    from_marker: bool = True  # ... at or above the marker (the first seq kept); False: strictly above it
    trim_marker: bool = True  # a trim puts its marker before it deletes; a sealer reads it again after its put
    marker_grows: bool = True  # a slow trimmer cannot put the marker back: an object per value
    keep_marks: bool = True  # OPEN and SEAL are never deleted
    own_readback: bool = True  # a name that exists: mine is done, SEAL is out; False: taken for my own retry
    look_back: bool = True  # a sealer looks for a SEAL among the last WINDOW objects; False: only at the gap
    window: bool = True  # the writer is never further than WINDOW ahead of what it acknowledged
    grant: bool = True  # nothing is acknowledged before a grant asked for after OPEN


class Sealer(NamedTuple):
    """idle, put, verify, done; and the seq it is at."""

    stage: str
    seq: int


class Lane(NamedTuple):
    """All there is. `objects` holds (seq, O | E | S)."""

    objects: frozenset[tuple[int, str]] = frozenset()
    over: bool = False
    marker: int = 0  # what a reader of the marker sees: the first seq kept
    swept: int = 0  # the highest marker that some trimmer wrote: it deletes below
    orders: tuple[int, ...] = ()  # trim orders not carried out yet
    writer: str = "new"  # new, opened, on, out
    sent: int = 1  # the seq of the next put
    flight: tuple[tuple[int, str], ...] = ()  # (seq, sent | ok)
    acked: int = 1  # the next seq to acknowledge
    sealers: tuple[Sealer, ...] = (Sealer("idle", 0), Sealer("idle", 0))
    trims: int = 2


class SealModel:
    """Steps of a lane. `seqs` bounds how many seqs the writer uses."""

    def __init__(self, rules: SealRules, seqs: int = 5) -> None:
        self._rules = rules
        self._seqs = seqs

    @staticmethod
    def good(s: Lane) -> bool:
        """Both sealers have returned."""
        return all(z.stage == "done" for z in s.sealers)

    def steps(self, s: Lane) -> Iterator[Step[Lane]]:
        """Everything that can happen next."""
        if not s.over:
            yield "meta: the lane is over", s._replace(over=True)
        yield from self._writer(s)
        yield from self._trims(s)
        for i in range(len(s.sealers)):
            if s.over:
                yield from self._sealer(s, i)

    # ---------------------------------------------------------------- the writer

    def _writer(self, s: Lane) -> Iterator[Step[Lane]]:
        taken = {q for q, _ in s.objects}
        if s.writer == "new":
            opened = s._replace(objects=s.objects | {(0, "O")}, writer="opened")
            yield "writer: put OPEN", s._replace(writer="out") if 0 in taken else opened
        elif s.writer == "opened":
            yield "writer: asks for a grant", s._replace(writer="out" if s.over and self._rules.grant else "on")
        elif s.writer == "on":
            ahead = WINDOW if self._rules.window else self._seqs
            if s.sent < self._seqs and s.sent < s.acked + ahead:
                yield f"writer: send put {s.sent}", s._replace(sent=s.sent + 1, flight=(*s.flight, (s.sent, "sent")))
            for i in range(len(s.flight)):
                yield from self._put(s, i, dict(s.objects))

    def _put(self, s: Lane, i: int, objects: dict[int, str]) -> Iterator[Step[Lane]]:
        seq, state = s.flight[i]
        others = s.flight[:i] + s.flight[i + 1 :]
        done = tuple(sorted((*others, (seq, "ok"))))
        if state == "ok":
            if seq == s.acked:
                yield f"writer: ACK {seq}", _check(s._replace(flight=others, acked=seq + 1))
        elif seq not in objects:
            landed = s._replace(objects=s.objects | {(seq, "E")})
            yield f"store: put {seq} lands", landed._replace(flight=done)
            yield f"store: put {seq} lands, its reply is lost", landed
        elif objects[seq] == "E" or not self._rules.own_readback:
            yield f"store: put {seq} exists, taken as one's own", s._replace(flight=done)
        else:
            yield f"store: put {seq} meets SEAL", s._replace(writer="out", flight=())

    # ---------------------------------------------------------------- trims

    def _trims(self, s: Lane) -> Iterator[Step[Lane]]:
        rules = self._rules
        if s.trims:
            for below in range(2, s.acked + 1):  # any acknowledged prefix may be covered
                orders = tuple(sorted((*s.orders, below)))
                yield f"meta: orders trim below {below}", s._replace(orders=orders, trims=s.trims - 1)
        for i, below in enumerate(s.orders):
            marker = s.marker
            if rules.trim_marker:
                marker = max(marker, below) if rules.marker_grows else below
            orders = s.orders[:i] + s.orders[i + 1 :]
            yield f"trim: marker {below}", s._replace(marker=marker, swept=max(s.swept, below), orders=orders)
        ended = any(z == Sealer("done", q) for z in s.sealers for q, kind in s.objects if kind == "S")
        for q, kind in s.objects:
            if kind == "E" and q < s.swept:
                yield f"trim: delete {q}", s._replace(objects=s.objects - {(q, kind)})
            elif kind != "E" and ended and not rules.keep_marks:
                yield f"trim: delete mark {q}", s._replace(objects=s.objects - {(q, kind)})

    # ---------------------------------------------------------------- sealers

    def _sealer(self, s: Lane, i: int) -> Iterator[Step[Lane]]:
        stage, seq = s.sealers[i]
        name = f"sealer{i}"
        objects = dict(s.objects)
        if stage == "idle":
            stage, at = self._look(s, objects)
            yield f"{name}: lists, will {stage} at {at}", _move(s, i, stage, at)
        elif stage == "put":
            if seq not in objects:
                landed = s._replace(objects=s.objects | {(seq, "S")})
                yield f"{name}: SEAL put at {seq}", _move(landed, i, "verify", seq)
            elif objects[seq] == "S":
                yield f"{name}: finds SEAL at {seq}", _move(s, i, "verify", seq)
            else:
                yield f"{name}: {seq} is taken, next", _move(s, i, "put", seq + 1)
        elif stage == "verify":
            if self._rules.trim_marker and s.marker > seq:
                yield f"{name}: the marker passed it, again", _move(s, i, "idle", 0)
            else:
                yield f"{name}: RETURNS {seq}", self._return(s, i, seq, objects)

    def _look(self, s: Lane, objects: dict[int, str]) -> tuple[str, int]:
        """Where to put a SEAL, or where one is."""
        low = s.marker if self._rules.trim_marker else min(objects, default=0)
        if self._rules.trim_marker and not self._rules.from_marker and s.marker:
            low += 1
        at = low
        while at in objects:
            at += 1
        seals = [q for q in range(max(low, at - WINDOW), at) if objects[q] == "S"]
        if seals and self._rules.look_back:
            return "verify", min(seals)
        return "put", at if self._rules.first_gap else max(objects, default=-1) + 1

    @staticmethod
    def _return(s: Lane, i: int, seq: int, objects: dict[int, str]) -> Lane | Broken:
        holes = [q for q in range(s.acked, seq) if q and q not in objects]
        if holes:
            return Broken(f"a seal returns {seq} with holes {holes}: put and acknowledged later, never replayed")
        return _move(s, i, "done", seq)


def _move(s: Lane, i: int, stage: str, seq: int) -> Lane | Broken:
    sealers = (*s.sealers[:i], Sealer(stage, seq), *s.sealers[i + 1 :])
    return _check(s._replace(sealers=sealers))


def _check(s: Lane) -> Lane | Broken:
    ends = {seq for stage, seq in s.sealers if stage == "done"}
    if len(ends) > 1:
        return Broken(f"two seals of one lane returned {sorted(ends)}")
    for end in ends:
        if s.acked > max(end, 1):
            return Broken(f"a seal returned {end} but seq {s.acked - 1} was acknowledged")
    return s
