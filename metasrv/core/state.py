"""The replicated state: dicts of frozen records, and the indexes that are derived from them.

Only metasrv.core.transaction writes it. Everybody else reads it, on the loop, between two applies.
"""

from collections import deque
from collections.abc import Iterator

import msgspec

from groundwork.core.ids import Lane
from metasrv.core.events import Event
from metasrv.core.records import (
    Config,
    Drain,
    Failure,
    LaneState,
    Migration,
    Node,
    NodeStatus,
    Pause,
    Phase,
    Region,
    Stay,
    Table,
)
from metasrv.core.shards import Shards

ANSWERS_MAX = 10_000
AUDIT_MAX = 10_000
_NO_LANE = LaneState(over=True)


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a request id was answered, so that its repeat gets the same."""

    revision: int
    value: int


class State:
    """See the module docstring. `census[lane][phase]` counts the regions that a lane owns, by stored phase."""

    def __init__(self) -> None:
        self.cluster_id = ""
        self.generation = 0
        self.next_token = 0
        self.next_table_id = 1
        self.revision = 0
        self.config = Config()
        self.nodes: dict[str, Node] = {}
        self.lanes: dict[Lane, LaneState] = {}
        self.tables: dict[int, Table] = {}
        self.regions: Shards[Region] = Shards()
        self.migrations: dict[int, Migration] = {}  # by region id
        self.drains: dict[str, Drain] = {}
        self.pauses: dict[str, Pause] = {}
        self.failures: dict[int, Failure] = {}
        self.answers: dict[str, Answer] = {}
        self.audit: deque[Event] = deque(maxlen=AUDIT_MAX)
        # derived
        self.names: dict[str, int] = {}
        self.staying: dict[Lane, set[int]] = {}  # regions with a stay in the lane; the owned ones are among them
        self.census: dict[Lane, list[int]] = {}
        self.lanes_of: dict[str, list[Lane]] = {}  # every lane with a record, by node id

    # --- lanes and nodes

    def is_over(self, lane: Lane) -> bool:
        """Committed as over, or unknown: then its incarnation is gone."""
        return self.lanes.get(lane, _NO_LANE).over

    def node_lanes(self, node_id: str) -> list[Lane]:
        """The lanes of the current incarnation, by index, over or not."""
        node = self.nodes.get(node_id)
        return [Lane(node_id, node.incarnation, i) for i in range(node.lanes)] if node else []

    def open_lanes(self, node_id: str) -> list[Lane]:
        """The lanes of the current incarnation that are not over."""
        return [lane for lane in self.node_lanes(node_id) if not self.is_over(lane)]

    def is_alive(self, node_id: str, incarnation: int) -> bool:
        """The current incarnation, and not ended. It may be suspect."""
        node = self.nodes.get(node_id)
        return node is not None and node.incarnation == incarnation and node.status <= NodeStatus.SUSPECT

    def owned(self, lane: Lane) -> int:
        """How many regions the lane owns."""
        return sum(self.census.get(lane, ()))

    def regions_of(self, lane: Lane) -> list[int]:
        """The regions that a lane owns, sorted."""
        return sorted(r for r in self.staying.get(lane, ()) if self.regions[r].lane == lane)

    def node_region_count(self, node_id: str) -> int:
        """Regions owned by the current incarnation."""
        return sum(self.owned(lane) for lane in self.node_lanes(node_id))

    def lost_lanes(self) -> list[Lane]:
        """Lanes that are over and still own regions, sorted."""
        return sorted(lane for lane, counts in self.census.items() if any(counts) and self.is_over(lane))

    # --- regions

    def phase_of(self, region: Region) -> Phase:
        """The phase that people and routes see."""
        return Phase.LOST if self.is_over(region.lane) else region.phase

    def reads_only(self, region_id: int) -> bool:
        """Whether it has damaged entries and serves reads only: no move can end, since its owner cannot stop it."""
        failure = self.failures.get(region_id)
        return failure is not None and failure.read_only

    def phases(self) -> dict[Phase, int]:
        """How many regions are in each phase, without a scan of the regions."""
        counts = dict.fromkeys(Phase, 0)
        for lane, by_phase in self.census.items():
            over = self.is_over(lane)
            for phase in Phase:
                counts[Phase.LOST if over else phase] += by_phase[phase]
        return counts

    def trim_limit(self, lane: Lane) -> int:
        """The highest position below which nothing in the lane is needed by any stay.

        Without stays it is an end that some report gave, hence one read no later than the index (HOLES, second pass 7).
        """
        needed = [s.covered for r in self.staying.get(lane, ()) for s in self.regions[r].stays if s.lane == lane]
        return min(needed) if needed else self.lanes.get(lane, _NO_LANE).reached

    def table_named(self, name: str) -> Table | None:
        """The table of that name that is not being dropped."""
        table = self.tables.get(self.names.get(name, 0))
        return table if table and not table.dropping else None

    # --- indexes

    def index_region(self, region_id: int, old: Region | None, new: Region | None) -> None:
        """Bring the derived indexes in line with a change of one region."""
        if old:
            self.census[old.lane][old.phase] -= 1
        if new:
            counts = self.census.get(new.lane)
            if counts is None:
                counts = self.census[new.lane] = [0] * (max(Phase) + 1)
            counts[new.phase] += 1
        before, after = (old.stays if old else ()), (new.stays if new else ())
        if before is after:
            return
        if before and len(before) > len(after):
            kept = {s.lane for s in after}
            for stay in before:
                if stay.lane not in kept:
                    self.staying[stay.lane].discard(region_id)
        for stay in after:
            here = self.staying.get(stay.lane)
            if here is None:
                here = self.staying[stay.lane] = set()
            here.add(region_id)

    def index_lane(self, lane: Lane) -> None:
        """Enter a new lane."""
        self.lanes_of.setdefault(lane.node_id, []).append(lane)

    def reindex(self) -> None:
        """Derive every index anew, and share equal lanes again (after a restore)."""
        self.names = {t.name: t.table_id for t in self.tables.values()}
        self.staying, self.census, self.lanes_of = {}, {}, {}
        one: dict[Lane, Lane] = {lane: lane for lane in self.lanes}
        for lane in self.lanes:
            self.index_lane(lane)
        for region_id, region in list(self.regions.items()):
            stays = tuple(Stay(one.setdefault(s.lane, s.lane), s.epoch, s.covered) for s in region.stays)
            shared = msgspec.structs.replace(region, lane=one.setdefault(region.lane, region.lane), stays=stays)
            self.regions[region_id] = shared
            self.index_region(region_id, None, shared)

    def lane_records(self) -> Iterator[tuple[Lane, LaneState]]:
        """All lanes, in a stable order."""
        for lane in sorted(self.lanes):
            yield lane, self.lanes[lane]
