"""P1: no lane is trimmed beyond what the newest manifests still need, whoever reports what, late, twice or never."""

from random import Random

import msgspec

from groundwork.core.ids import Lane
from groundwork.core.manifest import Claim, Manifest, NeedSeal, Origin, Stay, claim, flushed
from groundwork.core.table import Schema
from metasrv.core import commands as c
from metasrv.core.records import Phase, Region
from tests.core.metasrv.world import COLUMNS, World

REGIONS, STEPS, SEEDS = 5, 250, 20
SHARED = 3  # so many lanes have all regions at a time


class History:
    """Regions on lanes of three datanodes: manifests by their own rules, and the reports that agents make of them."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.world = World()
        agents = [self.world.add(f"dn-{n}", f"site-{n}/z", lanes=6) for n in range(3)]
        self.lanes = [Lane(a.node_id, a.incarnation, i) for i in range(6) for a in agents]
        self.next = dict.fromkeys(self.lanes, 5)  # positions; those below are durable
        self.world.propose(
            c.CreateTable(
                name="t", columns=COLUMNS, partitions=REGIONS, lanes=(self.lanes[0],), placement=(0,) * REGIONS
            )
        )
        self.manifests: dict[int, Manifest] = {}
        self.left: dict[int, list[Stay]] = {}
        self.kept: list[c.Covered] = []  # every report that was ever made: any may come at any time, or come again
        self.reached_ends = 0

    @property
    def regions(self) -> dict[int, Region]:
        """As metasrv has them."""
        return dict(self.world.machine.state.regions.items())

    def step(self) -> None:
        """One thing happens."""
        region_id = self.chance.choice(sorted(self.regions))
        lane = self.chance.choice(self.lanes)
        self.next[lane] += 0 if self.over(lane) else self.chance.randrange(3)
        self.chance.choice((self.claim, self.claim, self.flush, self.flush, self.move, self.fail_over))(region_id)
        for _ in range(self.chance.randrange(3)):
            if self.kept:
                self.world.propose(
                    c.Reports(items=(self.chance.choice(self.kept[-12:]), self.chance.choice(self.kept)))
                )
        self.trim()

    @property
    def alive(self) -> list[Lane]:
        """Those that take appends."""
        return [lane for lane in self.lanes if not self.over(lane)]

    def over(self, lane: Lane) -> bool:
        """Committed as over: its end stands where it was sealed, here at once."""
        return self.world.machine.state.is_over(lane)

    def claim(self, region_id: int) -> None:
        """The owner carries out its order: claims, and has replayed what it claimed."""
        region = self.regions[region_id]
        current = self.manifests.get(region_id)
        if self.over(region.lane) or (current and current.epoch >= region.epoch):
            return
        ends = {(e.lane, e.stay_epoch): e.position for e in region.ends}
        over = {lane for lane in self.lanes if self.over(lane)}
        brought = Claim(region.epoch, "", "", region.lane, self.next[region.lane], ends, over, {})
        while isinstance(got := claim(current, brought, Origin(region_id, Schema(1, COLUMNS))), NeedSeal):
            brought = brought._replace(sealed={**brought.sealed, got.lane: self.next[got.lane]})
        assert isinstance(got, Manifest), got
        for stay in got.stays:
            assert stay.end is None or stay.covered >= self.trimmed(stay.lane), "what it must replay is gone"
        self.manifests[region_id], self.left[region_id] = got, []
        me = (region.lane.node_id, region.lane.incarnation)
        self.world.propose(c.Reports(items=(c.Serving(*me, region_id, region.epoch),)))

    def flush(self, region_id: int) -> None:
        """The newest claimant flushes, if it only was told of no successor: that one may not have claimed yet."""
        manifest = self.manifests.get(region_id)
        if manifest is None:
            return
        own = next(s for s in manifest.stays if s.end is None)
        self.left[region_id] += [s for s in manifest.stays if s.end is not None]
        covered = self.chance.randint(own.covered, max(own.covered, self.next[own.lane]))
        after = self.manifests[region_id] = flushed(manifest, manifest.epoch, "", (), covered)
        told = [c.CoveredStay(s.lane, s.epoch, s.covered, s.done) for s in after.stays]
        told += [c.CoveredStay(s.lane, s.epoch, s.end or 0, True) for s in self.left[region_id]]
        lane = own.lane
        self.kept.append(c.Covered(lane.node_id, lane.incarnation, region_id, after.epoch, after.version, tuple(told)))

    def move(self, region_id: int) -> None:
        """A migration to some other lane, to its end."""
        region = self.regions[region_id]
        target = self.chance.choice(self.alive[:SHARED])
        if region.phase is not Phase.SERVING or target == region.lane or self.over(region.lane):
            return
        attempt = self.world.propose(c.StartMigration(moves=(c.Placement(region_id, target),))).value
        stay = next(s for s in self.manifests[region_id].stays if s.end is None)
        end = self.chance.randint(max(stay.start, stay.covered), max(stay.covered, self.next[stay.lane]))
        me, to = (stay.lane.node_id, stay.lane.incarnation), (target.node_id, target.incarnation)
        stopped = c.Stopped(*me, region_id, region.epoch, attempt, stay.lane, stay.epoch, end)
        self.world.propose(c.Reports(items=(c.Prepared(*to, region_id, attempt),)))
        self.world.propose(c.Reports(items=(stopped,)))

    def fail_over(self, region_id: int) -> None:
        """The lane that a region is in ends; its regions go to another."""
        lane = self.regions[region_id].lane
        others = [x for x in self.alive if x != lane][:SHARED]
        if self.over(lane) or len(others) < SHARED or self.chance.random() < 0.8:
            return
        self.world.propose(c.Failover(lanes=(lane,), moves=(c.Move(lane, self.chance.choice(others)),)))

    def trimmed(self, lane: Lane) -> int:
        """As committed."""
        return self.world.machine.state.lanes[lane].trim

    def trim(self) -> None:
        """The leader trims as far as it may, and that is never further than any manifest needs."""
        state = self.world.machine.state
        points = tuple(c.TrimPoint(lane, limit) for lane in self.lanes if (limit := state.trim_limit(lane)))
        self.world.propose(c.Trim(points=points))
        for lane in self.lanes:
            needed = [s.covered for m in self.manifests.values() for s in m.stays if s.lane == lane and not s.done]
            assert self.trimmed(lane) <= min(needed, default=self.next[lane]), (lane, needed)
            assert self.trimmed(lane) <= self.next[lane], "further than anything was written"
            self.reached_ends += self.over(lane) and self.trimmed(lane) == self.next[lane]


def test_p1_no_lane_is_trimmed_beyond_what_the_newest_manifests_need() -> None:
    """P1: several regions on several lanes, moves, failovers, late and repeated reports of any owner there ever was."""
    ends = 0
    for seed in range(SEEDS):
        history = History(seed)
        for _ in range(STEPS):
            history.step()
        ends += history.reached_ends
    assert ends, "no dead lane was ever trimmed to its end"


def test_a_report_of_an_end_speaks_for_its_own_region_only() -> None:
    """P1: one region has covered the dead lane to its end; the other, not claimed yet, still needs all of it."""
    history = History(0)
    first, second, *_ = sorted(history.regions)
    dead, target = history.lanes[0], history.lanes[2]
    for region_id in (first, second):
        history.claim(region_id)
    history.next[dead] = 50
    history.world.propose(c.Failover(lanes=(dead,), moves=(c.Move(dead, target),)))
    history.claim(first)
    history.flush(first)
    [report] = history.kept
    assert [(s.covered, s.done) for s in report.stays if s.lane == dead] == [(50, True)]
    history.world.propose(c.Reports(items=(report, msgspec.structs.replace(report, manifest_version=9))))
    history.trim()
    assert history.trimmed(dead) <= 5
    history.claim(second)
