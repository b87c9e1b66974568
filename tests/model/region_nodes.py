"""What a datanode does in the model of regions: write, flush, claim, serve, and what its orders make it do."""

from collections.abc import Callable, Iterator

from tests.model.region_state import (
    Man,
    Message,
    Open,
    Process,
    Resume,
    Rules,
    Stay,
    StopOrder,
    StopReport,
    Trim,
    View,
    World,
    check,
    stay_entries,
)
from tests.model.search import Broken, Step

# Told of every claim: the manifest it met, its view, its lane's position, and what came of it.
OnClaim = Callable[[World, Process, int, View, Man | str], None]


class Nodes:
    """Steps of the processes. None is ever told that it was superseded: each is a zombie that may act at any time."""

    def __init__(self, rules: Rules, on_claim: OnClaim | None = None) -> None:
        self._rules = rules
        self._on_claim = on_claim

    def steps(self, s: World) -> Iterator[Step[World]]:
        """What every process may do by itself."""
        for p, views in s.procs:
            for r, v in enumerate(views):
                if v and v.mode == "serve":
                    if s.left.writes or s.lane(p).sealed:
                        yield f"{p}: write r{r} (epoch {v.epoch})", self._write(s, p, r, v)
                    if s.left.flushes and (v.mem or (v.man and len(v.man.stays) > 1)):
                        yield f"{p}: flush r{r}", _flush(s, p, r, v)
                elif v and v.mode == "opening":
                    yield f"{p}: seal or claim r{r} (epoch {v.epoch})", self._claim(s, p, r, v)
                elif v and v.mode == "claimed":
                    yield f"{p}: replay and serve r{r} (epoch {v.epoch})", self._serve(s, p, r, v)
            if s.left.crashes:
                gone = s._replace(procs=tuple(x for x in s.procs if x[0] != p))
                yield f"{p}: crash", gone.spend(crashes=1)

    def receive(self, s: World, m: Message) -> Iterator[Step[World]]:
        """What a message makes a process do, whenever it arrives."""
        if isinstance(m, Trim):
            lane = s.lane(m.lane)
            below = min(m.below, len(lane.entries))
            if lane.trim < below:
                yield f"trim {m.lane} below {below}", check(s.with_lane(m.lane, lane._replace(trim=below)))
            return
        views = dict(s.procs).get(m.process)
        if views is None or isinstance(m, StopReport):
            return
        p, r, v = m.process, m.region, views[m.region]
        if isinstance(m, Open) and (v is None or v.epoch < m.epoch):
            yield f"{p}: gets open r{r} epoch {m.epoch}", s.with_view(p, r, View("opening", m.epoch, ends=m.ends))
        elif isinstance(m, StopOrder) and v and v.mode == "serve" and v.epoch == m.epoch and v.man:
            stay = max(g.epoch for g in v.man.stays if g.lane == p)
            report = StopReport(r, p, m.epoch, m.attempt, len(s.lane(p).entries), stay)
            stopped = s.with_view(p, r, v._replace(mode="stopped"))._replace(msgs=s.msgs | {report})
            yield f"{p}: stops r{r} (attempt {m.attempt}), reports {report.position}", stopped
        elif isinstance(m, Resume) and v and v.mode == "stopped" and v.epoch < m.under + (not self._rules.attempt):
            yield f"{p}: resumes r{r} as epoch {m.under}", self._resume(s, p, r, v, m.under)

    def _resume(self, s: World, p: Process, r: int, v: View, epoch: int) -> World:
        if not self._rules.resume_keeps:
            return s.with_view(p, r, View("opening", epoch))
        return s.with_view(p, r, v._replace(mode="serve", epoch=epoch)).with_served(r, epoch)

    def _write(self, s: World, p: Process, r: int, v: View) -> World | Broken:
        lane = s.lane(p)
        if lane.sealed:
            return s.with_view(p, r, v._replace(mode="closed"))
        order = (v.epoch if self._rules.keep_seq else 0, v.seq + 1)
        entry = (order, sum(len(a) for a in s.acked) + 1)
        if v.epoch < s.served[r]:
            return Broken(f"TWO OWNERS: epoch {v.epoch} acknowledges region {r} after epoch {s.served[r]} has served")
        if s.acked[r] and order <= s.acked[r][-1][0]:
            return Broken(f"ORDER: acknowledged {entry} does not win over the earlier {s.acked[r][-1]}")
        acked = (*s.acked[:r], (*s.acked[r], entry), *s.acked[r + 1 :])
        s = s.with_lane(p, lane._replace(entries=(*lane.entries, (r, *entry))))._replace(acked=acked).spend(writes=1)
        return check(s.with_view(p, r, v._replace(mem=v.mem | {entry}, seq=v.seq + 1)))

    def _claim(self, s: World, p: Process, r: int, v: View) -> World | Broken:
        met = s.mans[r][-1]
        outcome = self._claimed(s, p, met, v)
        if self._on_claim:
            self._on_claim(s, p, r, v, outcome if isinstance(outcome, Man | str) else f"seal {outcome}")
        if outcome == "newer_epoch":
            return s.with_view(p, r, v._replace(mode="closed"))
        if isinstance(outcome, str):
            return Broken(f"{outcome}: the claim of {v.epoch} at {p} meets {met.stays}")
        if not isinstance(outcome, Man):  # seal it, then look at the manifest again
            return s.with_lane(outcome, s.lane(outcome)._replace(sealed=True))
        s = s.with_man(r, outcome)
        return check(s.with_view(p, r, v._replace(mode="claimed", base=len(s.mans[r]) - 1, man=outcome)))

    def _claimed(self, s: World, p: Process, met: Man, v: View) -> Man | Process | str:
        """The next version, or the lane to seal, or why the claim stops."""
        if self._rules.claim_epoch and met.epoch >= v.epoch:
            return "newer_epoch"
        ends = dict(v.ends)
        stays: list[Stay] = []
        for stay in met.stays:
            closed = stay
            if stay.end is None:
                lane = s.lane(stay.lane)
                if (stay.lane, stay.epoch) in ends:
                    closed = stay._replace(end=ends[stay.lane, stay.epoch])
                elif lane.sealed:
                    closed = stay._replace(end=len(lane.entries))
                elif self._rules.over_first and stay.lane not in s.over:
                    return "lane_not_over"
                else:
                    return stay.lane
            if closed.end is None or closed.covered < closed.end:
                stays.append(closed)
        position = len(s.lane(p).entries)
        return Man(v.epoch, (*stays, Stay(p, v.epoch, position, position, None)), met.files)

    def _serve(self, s: World, p: Process, r: int, v: View) -> World | Broken | None:
        if v.man is None:
            return None
        mem = {e for stay in v.man.stays for e in stay_entries(s, r, stay)}
        missing = set(s.acked[r]) - mem - {e for f in v.man.files for e in f[1]}
        if missing and (len(s.mans[r]) - 1 > v.base or v.epoch < s.served[r]):
            return None  # superseded while it opened: stale reads at most, until its lease ends
        if missing:
            return Broken(f"LOST: epoch {v.epoch} serves region {r} without acknowledged {sorted(missing)}")
        top = 0 if self._rules.keep_seq else max((o[1] for o, _ in mem), default=0)
        served = v._replace(mode="serve", mem=frozenset(mem), seq=top)
        return s.with_served(r, v.epoch).with_view(p, r, served)


def _flush(s: World, p: Process, r: int, v: View) -> World | Broken | None:
    """Covers its own open stay so far; closed stays were replayed into the memtable and are dropped."""
    if v.man is None:
        return None
    if v.base + 1 < len(s.mans[r]):  # the next version exists: fenced
        return s.with_view(p, r, v._replace(mode="closed"))
    covered = len(s.lane(p).entries)
    stays = tuple(g._replace(covered=covered) for g in v.man.stays if g.lane == p and g.end is None)
    man = Man(v.epoch, stays, v.man.files | ({(v.epoch, v.mem)} if v.mem else set()))
    s = s.with_man(r, man).spend(flushes=1)
    return check(s.with_view(p, r, v._replace(base=v.base + 1, man=man, mem=frozenset())))
