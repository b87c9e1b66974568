"""The state of the model of regions: who owns what, on top of lanes that are atomic."""

from typing import NamedTuple

from tests.model.search import Broken

NODES = "ABC"
Process = tuple[str, int]  # (node, incarnation token): also the name of its one lane
Order = tuple[int, int]  # (epoch, sequence)
Written = tuple[Order, int]  # with the id of the write
StayKey = tuple[Process, int]
Ends = tuple[tuple[StayKey, int], ...]


class Rules(NamedTuple):
    """The rules of DESIGN §8 and §9; False is the text read unkindly."""

    claim_epoch: bool = True  # a claim stops when the newest manifest has an epoch not below its own
    leave: bool = True  # a region leaves a lane only by its end or by the owner's committed last position
    attempt: bool = True  # a stop report counts only for its own attempt; resuming takes a new epoch
    resume_keeps: bool = True  # an owner that resumes goes on in its stay; False: it claims as on opening
    over_first: bool = True  # metasrv commits that a lane is over before anyone seals it; it takes no region then
    absorb: bool = True  # a failover carries the committed hand-over positions of the assignment it supersedes
    index_assign: bool = True  # the assignment itself enters the trim index; False: the first report does
    index_stay: bool = True  # index entries are by stay (claim epoch); False: by lane and region
    trim_end: bool = True  # a lane without uncovered stays is trimmed to an end read no later than the index
    keep_seq: bool = True  # the last write wins by (epoch, sequence); False: by sequence


class Bounds(NamedTuple):
    """How much may happen."""

    regions: int = 1
    writes: int = 3
    moves: int = 2  # failovers of a lane that is not over, re-targetings, migrations
    flushes: int = 1
    trims: int = 0
    crashes: int = 0
    restarts: int = 0


class Left(NamedTuple):
    """What is left of the bounds."""

    writes: int
    moves: int
    flushes: int
    trims: int
    crashes: int
    restarts: int


class Stay(NamedTuple):
    """Of a manifest; `end` None while open."""

    lane: Process
    epoch: int  # of the claim that began it
    start: int
    covered: int
    end: int | None


class Man(NamedTuple):
    """A manifest version; files hold (epoch, entries)."""

    epoch: int
    stays: tuple[Stay, ...]
    files: frozenset[tuple[int, frozenset[Written]]]


class View(NamedTuple):
    """What a process holds of a region; mode: opening, claimed, serve, stopped, closed."""

    mode: str
    epoch: int
    base: int = -1  # the manifest version it stands on
    man: Man | None = None
    mem: frozenset[Written] = frozenset()
    seq: int = 0
    ends: Ends = ()  # committed hand-over positions that came with the assignment


class Reg(NamedTuple):
    """What metasrv has committed of a region; phase: open, serve, stop."""

    owner: Process
    epoch: int
    phase: str
    attempt: int = 0
    to: Process | None = None


class Lane(NamedTuple):
    """Entries are (region, order, write id)."""

    entries: tuple[tuple[int, Order, int], ...] = ()
    sealed: bool = False
    trim: int = 0


class Open(NamedTuple):
    """An assignment on its way. Messages are never consumed: they may arrive late, and twice."""

    region: int
    process: Process
    epoch: int
    ends: Ends


class StopOrder(NamedTuple):
    """Stop for a migration attempt."""

    region: int
    process: Process
    epoch: int
    attempt: int


class Resume(NamedTuple):
    """A cancelled migration: go on under `under`."""

    region: int
    process: Process
    epoch: int
    under: int


class StopReport(NamedTuple):
    """The owner's last position, for one attempt."""

    region: int
    process: Process
    epoch: int
    attempt: int
    position: int
    stay: int


class Trim(NamedTuple):
    """A trim order."""

    lane: Process
    below: int


Message = Open | StopOrder | Resume | StopReport | Trim
IndexKey = tuple[Process, int, int]  # (lane, region, stay)


class World(NamedTuple):
    """All there is."""

    token: int
    regs: tuple[Reg, ...]
    over: frozenset[Process]
    trim_index: frozenset[tuple[IndexKey, int]]
    msgs: frozenset[Message]
    lanes: tuple[tuple[Process, Lane], ...]
    procs: tuple[tuple[Process, tuple[View | None, ...]], ...]
    mans: tuple[tuple[Man, ...], ...]  # by region
    acked: tuple[tuple[Written, ...], ...]  # by region, in order of acknowledgement
    served: tuple[int, ...]  # by region: the highest epoch that has served
    left: Left

    def lane(self, process: Process) -> Lane:
        """The lane of a process."""
        return dict(self.lanes)[process]

    def with_lane(self, process: Process, lane: Lane) -> "World":
        """With this lane."""
        return self._replace(lanes=tuple(sorted([*((k, v) for k, v in self.lanes if k != process), (process, lane)])))

    def with_view(self, process: Process, region: int, view: View) -> "World":
        """With this view of a region."""
        procs = tuple(
            (k, (*v[:region], view, *v[region + 1 :]) if k == process else v) for k, v in self.procs
        )  # fmt: skip
        return self._replace(procs=procs)

    def with_reg(self, region: int, reg: Reg) -> "World":
        """With this record of metasrv."""
        return self._replace(regs=(*self.regs[:region], reg, *self.regs[region + 1 :]))

    def with_man(self, region: int, man: Man) -> "World":
        """With one more manifest version."""
        mans = (*self.mans[region], man)
        return self._replace(mans=(*self.mans[:region], mans, *self.mans[region + 1 :]))

    def with_served(self, region: int, epoch: int) -> "World":
        """With an epoch that has served."""
        top = max(self.served[region], epoch)
        return self._replace(served=(*self.served[:region], top, *self.served[region + 1 :]))

    def spend(self, **what: int) -> "World":
        """With less left."""
        return self._replace(left=self.left._replace(**{k: getattr(self.left, k) - n for k, n in what.items()}))


def start(b: Bounds) -> World:
    """Every region is served by A."""
    a: Process = ("A", 1)
    names: list[Process] = [(n, i + 1) for i, n in enumerate(NODES)]
    man = Man(4, (Stay(a, 4, 0, 0, None),), frozenset())
    views: tuple[View | None, ...] = (View("serve", 4, 0, man),) * b.regions
    return World(
        token=5,
        regs=(Reg(a, 4, "serve"),) * b.regions,
        over=frozenset(),
        trim_index=frozenset(((a, r, 4), 0) for r in range(b.regions)),
        msgs=frozenset(),
        lanes=tuple((k, Lane()) for k in names),
        procs=tuple((k, views if k == a else (None,) * b.regions) for k in names),
        mans=((man,),) * b.regions,
        acked=((),) * b.regions,
        served=(4,) * b.regions,
        left=Left(*b[1:]),
    )


def stay_entries(s: World, region: int, stay: Stay) -> list[Written]:
    """What a reader of a stay finds: not what is covered, and not what is trimmed."""
    lane = s.lane(stay.lane)
    stop = len(lane.entries) if stay.end is None else stay.end
    low = max(stay.covered, lane.trim)
    return [(o, w) for i, (r, o, w) in enumerate(lane.entries) if r == region and low <= i < stop]


def check(s: World) -> World | Broken:
    """P1: the newest manifest and the stays that it names are enough for the next owner."""
    for region, acked in enumerate(s.acked):
        man = s.mans[region][-1]
        found = {e for f in man.files for e in f[1]}
        for stay in man.stays:
            found.update(stay_entries(s, region, stay))
        lost = set(acked) - found
        if lost:
            return Broken(f"LOST: region {region}, acknowledged {sorted(lost)} in no manifest and no lane that is read")
    return s


def good(s: World) -> bool:
    """Every region is served by the process that metasrv names, on a lane that takes appends."""
    procs = dict(s.procs)
    for region, g in enumerate(s.regs):
        view = procs[g.owner][region] if g.owner in procs else None
        if view is None or view.mode != "serve" or view.epoch != g.epoch or s.lane(g.owner).sealed:
            return False
    return True
