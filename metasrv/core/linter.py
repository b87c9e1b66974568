"""What every plan must hold, checked on the plan itself, of whatever kind, before it is given out or proposed."""

from collections.abc import Collection, Sequence

from groundwork.core.ids import Lane, region_text
from metasrv.core.commands import Failover, StartMigration
from metasrv.core.placement import UNLIMITED
from metasrv.core.records import NodeStatus, Phase
from metasrv.core.state import State


def check_failover(state: State, plan: Failover, unplaced: int) -> list[str]:
    """The rules that the plan breaks, in words; empty for a sound plan. `unplaced`: regions that it leaves out."""
    faults = []
    ended_nodes = {e.node_id for e in plan.ended}
    ending = {lane for n in ended_nodes for lane in state.open_lanes(n)} | set(plan.lanes)
    lost = {lane: state.owned(lane) for lane in {*state.lost_lanes(), *ending}}
    moved: dict[int, int] = {}
    whole = set()
    incoming: dict[str, int] = {}
    for move in plan.moves:
        node = state.nodes.get(move.target.node_id)
        if move.source not in lost:
            faults.append(f"lane {move.source} is not lost")
        if node is None or node.status is not NodeStatus.UP or node.node_id in ended_nodes:
            faults.append(f"{move.target.node_id} is not up")
        if state.is_over(move.target) or move.target in ending:
            faults.append(f"lane {move.target} is over")
        if move.source in whole:
            faults.append(f"lane {move.source} is given away twice")
        if move.region_ids is None:
            whole.add(move.source)
        for region_id in move.region_ids or ():
            region = state.regions.get(region_id)
            if region is None or region.lane != move.source:
                faults.append(f"region {region_id} is not in lane {move.source}")
            moved[region_id] = moved.get(region_id, 0) + 1
        count = state.owned(move.source) if move.region_ids is None else len(move.region_ids)
        incoming[move.target.node_id] = incoming.get(move.target.node_id, 0) + count
    faults += [f"region {r} is given away {n} times" for r, n in moved.items() if n > 1]
    faults += _too_many(state, incoming, ending)
    placed = sum(incoming.values())
    if placed + unplaced != sum(lost.values()):
        faults.append(f"{placed} regions are placed and {unplaced} left out, but {sum(lost.values())} are lost")
    return faults


def check_moves(state: State, plan: StartMigration) -> list[str]:
    """The rules that a plan of voluntary moves breaks: an operator's, a drain's, or one to even loads out."""
    faults = []
    incoming = dict.fromkeys((m.target.node_id for m in plan.moves), 0)
    for migration in state.migrations.values():
        if migration.target.node_id in incoming:
            incoming[migration.target.node_id] += 1
    for region_id in sorted({m.region_id for m in plan.moves if m.region_id in state.migrations}):
        faults.append(f"region {region_text(region_id)} is being moved already")
    if len({m.region_id for m in plan.moves}) < len(plan.moves):
        faults.append("a region is moved twice")
    for move in plan.moves:
        region, node_id = state.regions.get(move.region_id), move.target.node_id
        if region is None or state.phase_of(region) is not Phase.SERVING or state.reads_only(move.region_id):
            faults.append(f"region {region_text(move.region_id)} does not serve writes")
        elif region.lane.node_id == node_id:
            faults.append(f"region {region_text(move.region_id)} is on {node_id} already")
        if node_id in state.drains:
            faults.append(f"{node_id} is being drained")
        faults += _no_home(state, move.target)
        incoming[node_id] += 1
    return faults + _too_many(state, incoming)


def check_table(state: State, lanes: Sequence[Lane], placement: Sequence[int], partitions: int) -> list[str]:
    """The rules that the placement of a new table breaks."""
    if len(placement) != partitions or not all(0 <= at < len(lanes) for at in placement):
        return [f"{len(placement)} of {partitions} partitions have a lane, or one that is not named"]
    incoming: dict[str, int] = {}
    for at in placement:
        incoming[lanes[at].node_id] = incoming.get(lanes[at].node_id, 0) + 1
    return [f for lane in lanes for f in _no_home(state, lane)] + _too_many(state, incoming)


def _no_home(state: State, lane: Lane) -> list[str]:
    node = state.nodes.get(lane.node_id)
    faults = [f"lane {lane} is over"] if state.is_over(lane) else []
    if node is None or node.status is not NodeStatus.UP:
        faults.append(f"{lane.node_id} is not up")
    return faults


def _too_many(state: State, incoming: dict[str, int], ending: Collection[Lane] = ()) -> list[str]:
    faults = []
    for node_id, count in incoming.items():
        node = state.nodes.get(node_id)
        capacity = (node.capacity_regions if node else 0) or UNLIMITED
        kept = sum(state.owned(lane) for lane in state.open_lanes(node_id) if lane not in ending)
        if kept + count > capacity:
            faults.append(f"{node_id} would own more than its {capacity} regions")
    return faults
