"""Plans: pure functions of the state and what the leader sees of the nodes. A plan leaves nothing to decide later.

Every plan has a sentence with figures, its steps for `--dry-run`, what could not be placed and why, and the command
that commits it (None: nothing to do). Every plan is checked by metasrv.core.linter before it is given out.
"""

from collections.abc import Sequence

from msgspec import Struct

from groundwork.core.check import require
from groundwork.core.errors import BadInput, Refused
from groundwork.core.ids import Lane, region_text, table_of
from metasrv.core import linter
from metasrv.core.commands import AcceptLoss, AnyCommand, Drain, Ended, Failover, Move, Placement, StartMigration
from metasrv.core.events import listed, regions_said
from metasrv.core.leases import Inventory
from metasrv.core.placement import Pool, pause_of
from metasrv.core.records import Phase
from metasrv.core.state import State


class PlanStep(Struct, frozen=True):
    """metasrv.v1.PlanStep, one per region (or per lane: region_id 0, in failovers)."""

    region_id: int
    from_node: str
    to_node: str
    why: str = ""
    regions: int = 1


class Plan(Struct, frozen=True):
    """See the module docstring."""

    sentence: str
    command: AnyCommand | None = None
    steps: tuple[PlanStep, ...] = ()
    unplaced: int = 0
    why_unplaced: str = ""


class _Group(Struct):
    """Regions of one lane that go together. No ids: all that the lane owns."""

    source: Lane
    count: int
    region_ids: list[int] | None = None
    priority: int = 0
    paused: str = ""


def plan_failover(
    state: State, inventory: Inventory, ended: Sequence[Ended] = (), lanes: Sequence[Lane] = (), why: str = "",
    wall_ms: int = 0,
) -> Plan:  # fmt: skip
    """One command for all regions of all lanes that are over, or that `ended` and `lanes` end with it."""
    ending = {lane for e in ended for lane in state.open_lanes(e.node_id)} | set(lanes)
    sources = sorted({*state.lost_lanes(), *(lane for lane in ending if state.owned(lane))})
    pool = Pool(state, inventory, ending, {e.node_id for e in ended})
    moves: list[Move] = []
    reasons: dict[str, int] = {}
    budget, later = state.config.failover_regions_max, 0
    short = pool.free() < sum(state.owned(lane) for lane in sources)
    for group in sorted(_groups(state, sources, wall_ms, short), key=lambda g: (-g.priority, -g.count, g.source)):
        if group.count > budget:
            if moves:
                later += group.count
                continue
            chosen = (group.region_ids or _by_priority(state, group.source))[:budget]
            later += group.count - budget
            group = _Group(group.source, len(chosen), chosen, group.priority, group.paused)
        placed = _place(state, pool, group, moves, reasons)
        budget -= placed
    placed = sum(_count(state, m) for m in moves)
    unplaced = sum(reasons.values())
    why_unplaced = "; ".join(f"{regions_said(n)} waiting: {reason}" for reason, n in reasons.items())
    sentence = _failover_sentence(state, why, moves, placed, later, why_unplaced)
    if not (moves or ending or ended):
        return Plan(sentence, None, (), unplaced, why_unplaced)
    command = Failover(ended=tuple(ended), lanes=tuple(lanes), moves=tuple(moves), sentence=sentence, wall_ms=wall_ms)
    faults = linter.check_failover(state, command, unplaced + later)
    require(not faults, f"the failover plan breaks its own rules: {faults[:3]}")
    steps = tuple(PlanStep(0, m.source.node_id, m.target.node_id, why, _count(state, m)) for m in moves)
    return Plan(sentence, command, steps, unplaced, why_unplaced)


def _count(state: State, move: Move) -> int:
    return state.owned(move.source) if move.region_ids is None else len(move.region_ids)


def _failover_sentence(state: State, why: str, moves: list[Move], placed: int, later: int, waiting: str) -> str:
    by_node: dict[str, int] = {}
    for move in moves:
        by_node[move.target.node_id] = by_node.get(move.target.node_id, 0) + _count(state, move)
    to = listed([f"{n} ({c})" for n, c in sorted(by_node.items())])
    lanes = len({m.source for m in moves})
    parts = [
        f"{regions_said(placed)} of {lanes} lane{'s' if lanes > 1 else ''} to {to}" if placed else "no region is moved"
    ]
    if later:
        parts.append(f"{later} more follow at once")
    if waiting:
        parts.append(waiting)
    return (f"{why}: " if why else "") + "; ".join(parts)


def _by_priority(state: State, source: Lane) -> list[int]:
    return sorted(state.regions_of(source), key=lambda r: (-state.tables[table_of(r)].priority, r))


def _groups(state: State, sources: Sequence[Lane], wall_ms: int, short: bool) -> list[_Group]:
    """One group per lane, looked at region by region only where that can matter.

    That is where tables are paused, or where they differ in importance; a lane is split by importance only when there
    is not room for all (`short`).
    """
    paused_tables = {
        t.table_id: f"table/{t.name} is paused"
        for t in state.tables.values()
        if f"table/{t.name}" in state.pauses and pause_of(state, wall_ms, table=t.name)
    }
    ranked = any(t.priority for t in state.tables.values())
    groups = []
    for source in sources:
        pause = pause_of(state, wall_ms, source.node_id)
        scope = f"{pause.scope} is paused" if pause else ""
        if not paused_tables and not ranked:
            groups.append(_Group(source, state.owned(source), paused=scope))
            continue
        parts: dict[tuple[int, str], list[int]] = {}
        for region_id in _by_priority(state, source):
            priority = state.tables[table_of(region_id)].priority if short else 0
            parts.setdefault((priority, scope or paused_tables.get(table_of(region_id), "")), []).append(region_id)
        for (_, reason), ids in parts.items():
            highest = state.tables[table_of(ids[0])].priority
            groups.append(_Group(source, len(ids), ids if len(parts) > 1 else None, highest, reason))
    return groups


def _place(state: State, pool: Pool, group: _Group, moves: list[Move], reasons: dict[str, int]) -> int:
    """Keep the group together if any node has room for it; else spread it, most important first. How many fit."""
    home = group.source.node_id
    only = [home] if group.paused else None  # a pause holds regions where they are: their own node may have them back
    target = pool.take(group.count, home, only)
    if target:
        moves.append(Move(group.source, target, tuple(group.region_ids) if group.region_ids is not None else None))
        return group.count
    rest = group.region_ids or _by_priority(state, group.source)
    placed = 0
    while rest and (best := pool.roomiest(only)):
        node_id, room = best
        part, rest = rest[:room], rest[room:]
        moves.append(Move(group.source, pool.put(node_id, len(part)), tuple(sorted(part))))
        placed += len(part)
    if rest:
        if group.paused:
            reason = group.paused
        elif not pool.nodes():
            reason = "no other datanode is up and well"
        else:
            reason = f"the datanodes that are up and well ({len(pool.nodes())}) have no room left"
        reasons[reason] = reasons.get(reason, 0) + len(rest)
    return placed


def plan_table(state: State, inventory: Inventory, partitions: int) -> tuple[tuple[Lane, ...], tuple[int, ...]]:
    """For CreateTable: lanes, and for each partition an index into them. Raises BadInput when no node can take them."""
    pool = Pool(state, inventory)
    if not pool.nodes():
        raise BadInput("partitions", "no datanode is up and well: start one, then create the table")
    if pool.free() < partitions:
        raise BadInput("partitions", f"the datanodes have room for {pool.free()} more regions, not {partitions}")
    lanes: dict[Lane, int] = {}
    placement = []
    for lane in pool.spread(partitions):
        placement.append(lanes.setdefault(lane, len(lanes)))
    require(len(placement) == partitions, "there was room, and then there was none")
    faults = linter.check_table(state, tuple(lanes), placement, partitions)
    require(not faults, f"the placement of a table breaks its own rules: {faults[:3]}")
    return tuple(lanes), tuple(placement)


def checked(state: State, command: StartMigration) -> StartMigration:
    """Voluntary moves as they were planned, once the linter has seen them."""
    faults = linter.check_moves(state, command)
    require(not faults, f"the plan of these moves breaks its own rules: {faults[:3]}")
    return command


def plan_migration(
    state: State, inventory: Inventory, region_ids: Sequence[int], to_node: str = "", who: str = "", why: str = "",
    wall_ms: int = 0, request_id: str = "",
) -> Plan:  # fmt: skip
    """Move regions as an operator asked. Raises BadInput for what cannot be moved, with the reason."""
    chosen = sorted(set(region_ids))
    if not chosen:
        raise BadInput("region_ids", "name at least one region")
    if to_node and to_node not in state.nodes:
        raise BadInput("to_node", f"{to_node} is not registered")
    if to_node in state.drains:
        raise BadInput("to_node", f"{to_node} is being drained")
    pool = Pool(state, inventory)
    moves, steps = [], []
    for region_id in chosen:
        region = state.regions.get(region_id)
        if region is None:
            raise BadInput("region_ids", f"region {region_text(region_id)} does not exist")
        source = region.lane.node_id
        if state.phase_of(region) is not Phase.SERVING or region_id in state.migrations:
            how = "being moved already" if region_id in state.migrations else state.phase_of(region).name.lower()
            raise BadInput(
                "region_ids", f"region {region_text(region_id)} is {how}: only a serving region can be moved"
            )
        if state.reads_only(region_id):
            raise BadInput(
                "region_ids", f"region {region_text(region_id)} has damaged entries: accept its loss before it is moved"
            )
        if source == to_node:
            raise BadInput("to_node", f"region {region_text(region_id)} is on {to_node} already")
        lane = pool.take(1, only=[to_node] if to_node else [n for n in pool.nodes() if n != source])
        if lane is None:
            where = to_node if to_node else f"no datanode but {source}"
            how = "is not up and well, or has no room" if to_node else "is up and well with room"
            raise BadInput("to_node", f"{where} {how} for region {region_text(region_id)}")
        moves.append(Placement(region_id, lane))
        steps.append(PlanStep(region_id, source, lane.node_id, why))
    targets = ", ".join(sorted({s.to_node for s in steps}))
    sentence = f"{regions_said(len(steps))} to move to {targets}" + (f": {why}" if why else "")
    told = StartMigration(moves=tuple(moves), who=who, why=why, wall_ms=wall_ms, request_id=request_id)
    command = checked(state, told)
    return Plan(sentence, command, tuple(steps))


def plan_drain(
    state: State, inventory: Inventory, node_id: str, who: str = "", wall_ms: int = 0, request_id: str = "",
    by_node: bool = False,
) -> Plan:  # fmt: skip
    """What a drain will do. Its command only begins it; the moves follow in batches, replanned as nodes come and go."""
    if node_id not in state.nodes:
        raise BadInput("node_id", f"{node_id} is not registered")
    pool = Pool(state, inventory, without_nodes=[node_id])
    leaving = [region_id for lane in state.open_lanes(node_id) for region_id in state.regions_of(lane)]
    targets = pool.spread(len(leaving))
    steps = [PlanStep(r, node_id, t.node_id, "drain") for r, t in zip(leaving, targets, strict=False)]
    unplaced = len(leaving) - len(steps)
    if not pool.nodes() or (unplaced and not steps):
        raise BadInput("node_id", f"{node_id} is the last datanode that can have its {regions_said(unplaced)}: start "
                       "another one, or end a drain (metactl drain NODE --undo)")  # fmt: skip
    why = "the other datanodes have no room for them: it will not become empty" if unplaced else ""
    by_target: dict[str, int] = {}
    for step in steps:
        by_target[step.to_node] = by_target.get(step.to_node, 0) + 1
    to = ", ".join(f"{n} ({c})" for n, c in sorted(by_target.items()))
    sentence = f"{node_id} is drained of {regions_said(len(steps) + unplaced)}" + (f", to {to}" if to else "")
    command = Drain(node_id=node_id, who=who, by_node=by_node, wall_ms=wall_ms, request_id=request_id)
    return Plan(sentence, command, tuple(steps), unplaced, why)


def plan_accept_loss(state: State, command: AcceptLoss) -> Plan:
    """What serving without the damaged entries means. Raises Refused("conflict") where no loss waits to be accepted."""
    region, failure = state.regions.get(command.region_id), state.failures.get(command.region_id)
    name = region_text(command.region_id)
    if region is None:
        raise Refused("not_found", f"there is no region {name}")
    if failure is None or not failure.read_only or failure.kind != "damaged":
        raise Refused("conflict", f"region {name} has no damaged entries: there is no loss to accept")
    if failure.accepted:
        raise Refused("conflict", f"the loss in region {name} was accepted: it is on its way to serve")
    node_id = region.lane.node_id
    said = f"Region {name} gives up what is damaged, for good, and serves on {node_id}: {failure.message}"
    return Plan(said, command, (PlanStep(command.region_id, node_id, node_id, "accept the loss"),))
