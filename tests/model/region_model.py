"""The model of regions: metasrv's committed commands, over the processes of region_nodes.

Messages are never consumed: orders, reports of stops, reports of committed manifests and trim orders may arrive late,
and twice. Left out: leases and reads, generations, clean-up, standby (docs/lanes.md).
"""

from collections.abc import Iterable, Iterator

from tests.model.region_nodes import Nodes, OnClaim
from tests.model.region_state import (
    NODES,
    Ends,
    IndexKey,
    Lane,
    Man,
    Message,
    Open,
    Process,
    Reg,
    Resume,
    Rules,
    StopOrder,
    StopReport,
    Trim,
    World,
)
from tests.model.search import Step


class RegionModel:
    """Steps of the whole world."""

    def __init__(self, rules: Rules, on_claim: OnClaim | None = None) -> None:
        self._rules = rules
        self._nodes = Nodes(rules, on_claim)

    def steps(self, s: World) -> Iterator[Step[World]]:
        """Everything that can happen next."""
        yield from self._nodes.steps(s)
        yield from self._trims(s)
        for m in s.msgs:
            yield from self._nodes.receive(s, m)
            if isinstance(m, StopReport):
                yield from self._hand_over(s, m)
        for r, g in enumerate(s.regs):
            yield from self._region(s, r, g)
        for owner in sorted({g.owner for g in s.regs}):
            yield from self._failovers(s, owner)
        if s.left.restarts:
            for n in NODES:
                yield f"{n}: a new process registers", _register(s, n)

    # ---------------------------------------------------------------- the trim index

    def _trims(self, s: World) -> Iterator[Step[World]]:
        if s.left.trims or any(isinstance(m, Trim) for m in s.msgs):
            for r, mans in enumerate(s.mans):
                for n, man in enumerate(mans):
                    yield f"meta: hears of manifest {n} of r{r}", self._covered(s, r, man)
        if s.left.trims:
            for lane, _ in s.lanes:
                yield f"meta: orders trim of {lane}", self._order_trim(s, lane)

    def _covered(self, s: World, r: int, man: Man) -> World:
        """A report of a committed manifest: any version, at any time, by any process that was an owner."""
        stays = {(g.lane, r, g.epoch): g.covered for g in man.stays if g.end is None or g.covered < g.end}
        index: dict[IndexKey, int] = dict(s.trim_index)
        for key in [k for k in index if k[1] == r]:
            if self._rules.index_stay:
                if key in stays:
                    index[key] = max(index[key], stays[key])
                elif key[2] <= man.epoch:
                    del index[key]
            else:  # one entry by lane and region: the manifest has the last word
                same = [c for k, c in stays.items() if k[0] == key[0]]
                if same:
                    index[key] = min(same)
                else:
                    del index[key]
        if not self._rules.index_assign:
            for key, covered in stays.items():
                index.setdefault(key, covered)
        return s._replace(trim_index=frozenset(index.items()))

    def _order_trim(self, s: World, name: Process) -> World | None:
        lane = s.lane(name)
        end = len(lane.entries) if self._rules.trim_end else 99
        low = min([c for k, c in s.trim_index if k[0] == name], default=end)
        return s._replace(msgs=s.msgs | {Trim(name, low)}).spend(trims=1) if low > lane.trim else None

    # ---------------------------------------------------------------- procedures

    def _hand_over(self, s: World, m: StopReport) -> Iterator[Step[World]]:
        g = s.regs[m.region]
        current = g.phase == "stop" and g.owner == m.process and g.epoch == m.epoch
        if current and (not self._rules.attempt or g.attempt == m.attempt) and g.to and g.to not in s.over:
            ends: Ends = (((m.process, m.stay), m.position),)
            label = f"meta: hand over r{m.region} at {m.position} to {g.to}"
            yield label, self._assign(s, [m.region], g.to, ends)

    def _region(self, s: World, r: int, g: Reg) -> Iterator[Step[World]]:
        view = dict(s.procs).get(g.owner, (None,) * len(s.regs))[r]
        if g.phase == "open" and view and view.mode == "serve" and view.epoch == g.epoch:
            yield f"meta: r{r} serves", s.with_reg(r, g._replace(phase="serve"))
        if g.phase == "stop":
            yield f"meta: cancel the migration of r{r}", self._cancel(s, r, g)
        for n in NODES if s.left.moves else "":
            to = _latest(s, n)
            if to == g.owner or not _takes_regions(s, to):
                continue
            if g.phase == "serve" and g.owner not in s.over:
                stop: Message = StopOrder(r, g.owner, g.epoch, s.token)
                moving = s.with_reg(r, g._replace(phase="stop", attempt=s.token, to=to)).spend(moves=1)
                yield f"meta: migrate r{r} to {to}", moving._replace(token=s.token + 1, msgs=s.msgs | {stop})
            if g.phase == "open" and not self._rules.leave:
                again = self._assign(s.spend(moves=1), [r], to, self._carried(s, [r]))
                yield f"meta: re-target r{r} from {g.owner} to {to}", again

    def _cancel(self, s: World, r: int, g: Reg) -> World:
        epoch = s.token if self._rules.attempt else g.epoch
        reg = Reg(g.owner, epoch, "serve" if self._rules.resume_keeps else "open")
        resume: Message = Resume(r, g.owner, g.epoch, epoch)
        return s.with_reg(r, reg)._replace(token=s.token + 1, msgs=s.msgs | {resume})

    def _failovers(self, s: World, owner: Process) -> Iterator[Step[World]]:
        mine = [r for r, g in enumerate(s.regs) if g.owner == owner]
        for n in NODES:
            to = _latest(s, n)
            if to == owner or not _takes_regions(s, to) or not (s.left.moves or owner in s.over):
                continue
            ends = self._carried(s, mine)
            ended = s if owner in s.over else s.spend(moves=1)
            if self._rules.over_first:
                ended = ended._replace(over=s.over | {owner})
            yield f"meta: fail over {owner} to {to}", self._assign(ended, mine, to, ends)

    def _assign(self, s: World, regions: Iterable[int], to: Process, ends: Ends) -> World:
        msgs, index = set(s.msgs), set(s.trim_index)
        for r in regions:
            s = s.with_reg(r, Reg(to, s.token, "open"))
            msgs.add(Open(r, to, s.token, ends))
            if self._rules.index_assign:
                index.add(((to, r, s.token), 0))
        return s._replace(token=s.token + 1, msgs=frozenset(msgs), trim_index=frozenset(index))

    def _carried(self, s: World, regions: Iterable[int]) -> Ends:
        """Hand-over positions of assignments that may not have been claimed yet."""
        if not self._rules.absorb:
            return ()
        mine = set(regions)
        opens = [m for m in s.msgs if isinstance(m, Open) and m.region in mine and m.epoch == s.regs[m.region].epoch]
        return tuple(sorted({end for m in opens for end in m.ends}))


def _latest(s: World, node: str) -> Process:
    return max(k for k, _ in s.lanes if k[0] == node)


def _takes_regions(s: World, process: Process) -> bool:
    return process not in s.over and process in dict(s.procs)


def _register(s: World, node: str) -> World:
    key: Process = (node, s.token)
    procs = tuple(sorted([*s.procs, (key, (None,) * len(s.regs))], key=lambda kv: kv[0]))
    over = s.over | {k for k, _ in s.lanes if k[0] == node}
    return s.with_lane(key, Lane())._replace(token=s.token + 1, procs=procs, over=over).spend(restarts=1)
