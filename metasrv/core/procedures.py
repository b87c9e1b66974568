"""Planned work: migrations, drains, drops, rebalancing, trims. What to propose next, from the state alone and the time.

    StartMigration -> target tails -> Prepared -> owner stops -> Stopped commits the hand-over -> target serves
                          \\-- deadline, or the target is not up any more: CancelMigration, the owner resumes --/

Nothing here is needed for safety: each step is a command that the machine judges. Deadlines count on the leader's clock
from when it first saw the step; a new leader counts anew.
"""

from collections.abc import Hashable
from heapq import nsmallest

from msgspec import Struct

from groundwork.core.ids import Lane, region_text
from metasrv.core.commands import CancelMigration, Failover, Placement, Reopen, StartMigration, Trim, TrimPoint
from metasrv.core.decisions import Decision
from metasrv.core.events import regions_said
from metasrv.core.leases import Inventory, LeaseBook
from metasrv.core.placement import Pool, pause_of
from metasrv.core.planner import checked, plan_failover
from metasrv.core.rebalance import plan_rebalance
from metasrv.core.records import Failure, NodeStatus, Phase, Region
from metasrv.core.state import State

RETRY_MS = 1_000
RETRY_MS_MAX = 60_000
MOVE_AGAIN_MS = 5_000
TRIM_LANES_MAX = 64
HOPELESS = ("trimmed", "damaged")  # an operator decides
TIMES_BEFORE_LANE_ENDS = 3
LANE_ENDS_EVERY_MS = 60_000


class Procedures:
    """One per term of leadership, like the supervisor."""

    def __init__(self) -> None:
        self._first_seen: dict[Hashable, float] = {}
        self._trimmed_ms = 0.0
        self._trim_seen: dict[Lane, int] = {}
        self._trim_last: Lane | None = None  # looked at last: the next are those behind it
        self._lane_ended_ms: float | None = None
        self._tried_ms: dict[
            int, float
        ] = {}  # regions that were told to move lately: a failed move is not repeated at once

    def step(self, now_ms: float, wall_ms: int, state: State, book: LeaseBook) -> list[Decision]:
        """What to propose now. Call after Supervisor.step, under the same rules."""
        if not state.cluster_id:
            return []
        inventory = book.inventory(state, now_ms)
        seen, self._first_seen = self._first_seen, {}
        out = self._deadlines(now_ms, wall_ms, state, seen)
        out += self._failed(now_ms, wall_ms, state, inventory, seen)
        if not out:
            out += self._drains(now_ms, wall_ms, state, inventory)
        if not out:
            out += plan_rebalance(state, inventory, wall_ms, self._tried(now_ms))
            self._note_moves(now_ms, out)
        return out + self._trims(now_ms, wall_ms, state)

    def _since(self, seen: dict[Hashable, float], key: Hashable, now_ms: float) -> float:
        first = self._first_seen[key] = seen.get(key, now_ms)
        return now_ms - first

    # --- migrations

    def _deadlines(self, now_ms: float, wall_ms: int, state: State, seen: dict[Hashable, float]) -> list[Decision]:
        overdue: dict[tuple[int, str], list[int]] = {}
        for region_id, migration in state.migrations.items():
            deadline_ms = state.config.stop_deadline_ms if migration.stopping else state.config.prepare_deadline_ms
            age_ms = self._since(seen, (region_id, migration.attempt, migration.stopping), now_ms)
            target = state.nodes.get(migration.target.node_id)
            what = "stop and hand over" if migration.stopping else "let the target catch up"
            if target is None or target.status is not NodeStatus.UP:
                why = f"its target {migration.target.node_id} is not up any more"
            elif age_ms >= deadline_ms:
                why = f"to {what} took longer than {deadline_ms:,} ms"
            else:
                continue
            overdue.setdefault((migration.attempt, why), []).append(region_id)
        return [
            Decision(
                "cancel",
                f"the move of {regions_said(len(regions))} is cancelled: {why}",
                CancelMigration(attempt=attempt, region_ids=tuple(sorted(regions)), why=why, wall_ms=wall_ms),
            )
            for (attempt, why), regions in sorted(overdue.items())
        ]

    def _tried(self, now_ms: float) -> set[int]:
        self._tried_ms = {r: at for r, at in self._tried_ms.items() if now_ms - at < MOVE_AGAIN_MS}
        return set(self._tried_ms)

    def _note_moves(self, now_ms: float, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision.command, StartMigration):
                self._tried_ms.update((m.region_id, now_ms) for m in decision.command.moves)

    def _drains(self, now_ms: float, wall_ms: int, state: State, inventory: Inventory) -> list[Decision]:
        room = state.config.moves_max - len(state.migrations)
        out: list[Decision] = []
        if room <= 0 or not state.drains:
            return out
        pool = Pool(state, inventory)
        tried = self._tried(now_ms)
        for node_id, drain in sorted(state.drains.items()):
            if room <= 0 or not state.node_region_count(node_id) or pause_of(state, wall_ms, node_id):
                continue
            moves = []
            for region_id in self._movable(state, node_id, room, tried):
                target = pool.take(1)
                if target is not None:
                    moves.append(Placement(region_id, target))
            if moves:
                room -= len(moves)
                why = f"drain of {node_id}, {regions_said(state.node_region_count(node_id))} to go"
                told = StartMigration(moves=tuple(moves), who=drain.who, why=why, wall_ms=wall_ms)
                command = checked(state, told)
                out.append(Decision("migration", f"{regions_said(len(moves))} to leave {node_id}: {why}", command))
        self._note_moves(now_ms, out)
        return out

    @staticmethod
    def _movable(state: State, node_id: str, limit: int, tried: set[int]) -> list[int]:
        found: list[int] = []
        for lane in state.open_lanes(node_id):
            for region_id in state.staying.get(lane, ()):
                region = state.regions[region_id]
                free = region_id not in state.migrations and region_id not in tried and not state.reads_only(region_id)
                if free and region.lane == lane and region.phase is Phase.SERVING:
                    found.append(region_id)
        return sorted(found)[:limit]

    # --- regions that failed to open

    def _failed(
        self, now_ms: float, wall_ms: int, state: State, inventory: Inventory, seen: dict[Hashable, float]
    ) -> list[Decision]:
        again: list[int] = []
        for region_id, failure in state.failures.items():
            region = state.regions[region_id]
            waiting = region.phase is Phase.OPENING and not state.is_over(region.lane) and not failure.read_only
            if not waiting or failure.kind in HOPELESS or failure.epoch != region.epoch:
                continue
            age_ms = self._since(seen, (region_id, failure.epoch, failure.kind), now_ms)
            if _needs_lane_end(region, failure) and self._may_end_a_lane(now_ms):
                ended = self._end_lane(region_id, region, failure, wall_ms, state, inventory)
                if ended:
                    self._lane_ended_ms = now_ms
                    return [ended]
            if age_ms >= wait_ms(region, failure):
                again.append(region_id)
        if not again:
            return []
        again = sorted(again)[: state.config.failover_regions_max]  # an apply stalls all else (0008)
        said = f"{regions_said(len(again))} that failed to open: again, under a new epoch"
        return [Decision("reopen", said, Reopen(region_ids=tuple(again), sentence=said, wall_ms=wall_ms))]

    def _may_end_a_lane(self, now_ms: float) -> bool:
        return self._lane_ended_ms is None or now_ms - self._lane_ended_ms >= LANE_ENDS_EVERY_MS

    def _end_lane(
        self, region_id: int, region: Region, failure: Failure, wall_ms: int, state: State, inventory: Inventory
    ) -> Decision | None:
        """The region's last position in its lane is unknown, so only the lane's own end can free it."""
        said = f"({failure.kind}, {failure.times} times)"
        why = f"region {region_text(region_id)} cannot be opened in lane {region.lane} {said}"
        plan = plan_failover(state, inventory, (), [region.lane], why, wall_ms)
        if plan.unplaced or not isinstance(plan.command, Failover):
            return None
        return Decision("failover", plan.sentence, plan.command)

    # --- trims

    def _trims(self, now_ms: float, wall_ms: int, state: State) -> list[Decision]:
        if now_ms - self._trimmed_ms < state.config.trim_every_ms:
            return []
        self._trimmed_ms = now_ms
        points = []
        for lane in self._lanes_to_look_at(state):
            record, limit = state.lanes[lane], state.trim_limit(lane)
            if limit > record.trim:
                points.append(TrimPoint(lane, limit))  # looked at again until it is committed: a proposal may get lost
            else:
                self._trim_seen[lane] = record.changed
        if not points:
            return []
        said = f"{len(points)} lanes can be trimmed"
        return [Decision("trim", said, Trim(points=tuple(sorted(points, key=lambda p: p.lane)), wall_ms=wall_ms))]

    def _lanes_to_look_at(self, state: State) -> list[Lane]:
        """Some of those that changed since, in turn: lanes that change all the time leave the others theirs."""
        last = self._trim_last
        changed = (
            lane
            for lane, record in state.lanes.items()
            if record.changed > record.computed and self._trim_seen.get(lane, -1) < record.changed
        )
        chosen = nsmallest(TRIM_LANES_MAX, changed, key=lambda x: (last is not None and x <= last, x))
        self._trim_last = chosen[-1] if chosen else None
        return chosen


def _left_its_lane(region: Region) -> bool:
    """Its owner said where its stay ended: the next claim needs no seal."""
    return any((e.lane, e.stay_epoch) == (region.lane, region.stay_epoch) for e in region.ends)


def wait_ms(region: Region, failure: Failure) -> float:
    """How long a region that failed to open waits before it is tried again."""
    if failure.times == 1 and _left_its_lane(region):
        return 0.0
    return min(RETRY_MS_MAX, RETRY_MS * 2.0 ** (failure.times - 1))


def _needs_lane_end(region: Region, failure: Failure) -> bool:
    if failure.kind == "lane_over":
        return True  # its own writer is out of it: no claim can begin a stay there
    stuck = failure.kind in ("lane_not_over", "fenced") and failure.times >= TIMES_BEFORE_LANE_ENDS
    return stuck and not _left_its_lane(region)


class ProcedureView(Struct, frozen=True):
    """metasrv.v1.Procedure, one per region of a migration and one per drain, drop or failover."""

    procedure_id: int
    kind: str
    state: str
    region_id: int = 0
    from_node: str = ""
    to_node: str = ""
    why: str = ""
    started_wall_ms: int = 0
    ended_wall_ms: int = 0


def running(state: State) -> list[ProcedureView]:
    """Every procedure in flight, oldest first."""
    out = [
        ProcedureView(
            m.attempt, "migration", "stopping" if m.stopping else "preparing", region_id, m.source.node_id,
            m.target.node_id, m.why, m.started_wall_ms,
        )
        for region_id, m in state.migrations.items()
    ]  # fmt: skip
    for node_id, d in state.drains.items():
        left = state.node_region_count(node_id)
        how = f"{regions_said(left)} to go" if left else "drained"
        out.append(ProcedureView(d.procedure_id, "drain", how, 0, node_id, "", f"asked by {d.who}", d.started_wall_ms))
    for table in state.tables.values():
        if table.dropping:
            how = f"{regions_said(table.remaining)} to confirm"
            out.append(ProcedureView(table.dropping, "drop", how, why=f"table {table.name}"))
    lost = state.lost_lanes()
    if lost:
        count = sum(state.owned(lane) for lane in lost)
        nodes = ", ".join(sorted({lane.node_id for lane in lost}))
        out.append(ProcedureView(0, "failover", f"{regions_said(count)} without a new owner yet", from_node=nodes))
    return sorted(out, key=lambda p: (p.procedure_id, p.region_id))


_ENDED = {"failover": "failover", "handover": "migration", "cancel": "migration", "dropped": "drop", "undrain": "drain"}


def ended(state: State) -> list[ProcedureView]:
    """Those that ended, as far as the audit trail remembers, oldest first."""
    out = []
    began: dict[str, int] = {}
    for e in state.audit:
        if e.kind in ("migration", "drain"):
            began[e.fields.get("attempt", str(e.token))] = e.wall_ms
        kind = _ENDED.get(e.kind)
        if kind:
            how = "cancelled" if e.kind == "cancel" else "committed" if e.kind in ("failover", "handover") else "done"
            nodes = (*e.node_ids, "", "")
            number = int(e.fields.get("attempt", e.token))
            region_id = e.region_ids[0] if len(e.region_ids) == 1 else 0
            began_ms = began.get(str(number), e.wall_ms)
            out.append(ProcedureView(number, kind, how, region_id, nodes[0], nodes[1], e.sentence, began_ms, e.wall_ms))
    return out
