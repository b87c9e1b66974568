"""What every failover plan must hold, checked on the plan itself before it is proposed."""

from metasrv.core.commands import Failover
from metasrv.core.placement import UNLIMITED
from metasrv.core.records import NodeStatus
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
    for node_id, count in incoming.items():
        node = state.nodes.get(node_id)
        capacity = (node.capacity_regions if node else 0) or UNLIMITED
        if state.node_region_count(node_id) + count > capacity:
            faults.append(f"{node_id} would own more than its {capacity} regions")
    placed = sum(incoming.values())
    if placed + unplaced != sum(lost.values()):
        faults.append(f"{placed} regions are placed and {unplaced} left out, but {sum(lost.values())} are lost")
    return faults
