"""Planned moves: start and cancel. The hand-over itself is the commit of the owner's Stopped report (reports.py)."""

from groundwork.core.marks import mark
from metasrv.core.commands import CancelMigration, Placement, StartMigration
from metasrv.core.events import regions_said
from metasrv.core.records import Migration, NodeStatus, Phase
from metasrv.core.transaction import Refused, Transaction


def start(tx: Transaction, cmd: StartMigration) -> int:
    """Targets begin to tail, owners serve on. The value is the attempt."""
    reasons = {}
    chosen: dict[int, Placement] = {}
    for move in cmd.moves:
        reason = _why_not(tx, move)
        if reason:
            reasons[move.region_id] = reason
        else:
            chosen[move.region_id] = move
    if not chosen:
        first = next(iter(sorted(reasons.items())), None)
        raise Refused(f"region {first[0]} {first[1]}" if first else "no region was named")
    attempt = tx.epoch()
    for region_id, move in sorted(chosen.items()):
        source = tx.state.regions[region_id].lane
        tx.set_migration(region_id, Migration(attempt, source, move.target, False, cmd.who, cmd.why, cmd.wall_ms))
    nodes = sorted({m.target.node_id for m in chosen.values()} | {tx.state.regions[r].lane.node_id for r in chosen})
    targets = ", ".join(sorted({m.target.node_id for m in chosen.values()}))
    said = f"{regions_said(len(chosen))} on the way to {targets}: {cmd.why or cmd.who or 'no reason given'}"
    tx.event("migration", said, nodes, chosen, attempt=attempt)
    return attempt


def _why_not(tx: Transaction, move: Placement) -> str:
    state = tx.state
    region = state.regions.get(move.region_id)
    if region is None:
        return "does not exist"
    if state.is_over(region.lane) or region.phase is not Phase.SERVING:
        return f"is {state.phase_of(region).name.lower()}: only a serving region can be moved"
    if state.reads_only(move.region_id):
        return "has damaged entries and serves reads only: accept its loss before it is moved"
    if move.region_id in state.migrations:
        return f"is being moved already, by procedure {state.migrations[move.region_id].attempt}"
    target = state.nodes.get(move.target.node_id)
    if state.is_over(move.target) or target is None or target.status is not NodeStatus.UP:
        return f"cannot go to {move.target.node_id}, which is not up"
    if move.target.node_id == region.lane.node_id:
        return f"is on {move.target.node_id} already"
    if move.target.node_id in state.drains:
        return f"cannot go to {move.target.node_id}, which is drained"
    return ""


def cancel(tx: Transaction, cmd: CancelMigration) -> int:
    """Either this commits for a region, or its hand-over: each ends the attempt for the other. Value: how many."""
    state = tx.state
    mine = [r for r, m in state.migrations.items() if m.attempt == cmd.attempt]
    chosen = sorted(r for r in mine if cmd.region_ids is None or r in cmd.region_ids)
    if not chosen:
        mark("cancel_after_hand_over")
        raise Refused(f"attempt {cmd.attempt} has no such region in flight: handed over or cancelled before")
    nodes = {state.migrations[r].target.node_id for r in chosen} | {state.regions[r].lane.node_id for r in chosen}
    stopped = sum(state.migrations[r].stopping for r in chosen)
    for region_id in chosen:
        tx.end_migration(region_id)
    who, why = cmd.who or "metasrv", cmd.why or "no reason given"
    said = f"the move of {regions_said(len(chosen))} was cancelled by {who}: {why}"
    if stopped:
        said += f"; {regions_said(stopped)} resume under a new epoch"
    tx.event("cancel", said, sorted(nodes), chosen, attempt=cmd.attempt)
    return len(chosen)
