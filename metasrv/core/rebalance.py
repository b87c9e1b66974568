"""Voluntary moves: a returned or new datanode gets work, slowly; small differences are left alone (T16).

Only when nothing more important is going on, only onto datanodes that have been well for settle_ms without a break, and
only a few regions at a time: so a node that flaps never gets any, and one that stays well always does in the end.
"""

from collections.abc import Collection

from metasrv.core.commands import Placement, StartMigration
from metasrv.core.decisions import Decision
from metasrv.core.events import regions_said
from metasrv.core.leases import Inventory
from metasrv.core.placement import UNLIMITED, Pool, pause_of
from metasrv.core.planner import checked
from metasrv.core.records import NodeStatus, Phase
from metasrv.core.state import State


def plan_rebalance(state: State, inventory: Inventory, wall_ms: int, tried: Collection[int] = ()) -> list[Decision]:
    """At most one batch of moves, from the fullest datanode to the emptiest that has settled. `tried`: not these."""
    if state.migrations or state.drains or not state.config.rebalance_moves_max or state.lost_lanes():
        return []
    settled = {n for n, view in inventory.items() if view.settled and not view.doubtful}
    if not settled or any(n.status is NodeStatus.SUSPECT for n in state.nodes.values()):
        return []
    pool = Pool(state, inventory)
    calm = [n for n in pool.nodes() if not pause_of(state, wall_ms, n)]
    targets = [n for n in calm if n in settled]
    if not targets:
        return []
    counts = {n: state.node_region_count(n) for n in calm}
    capacity = {n: state.nodes[n].capacity_regions or UNLIMITED for n in calm}
    loads = {n: counts[n] / capacity[n] for n in calm}
    fullest = max(calm, key=lambda n: (loads[n], n))
    emptiest = min(targets, key=lambda n: (loads[n], n))
    mean = sum(counts.values()) / sum(capacity.values())
    gap = loads[fullest] - loads[emptiest]
    if fullest == emptiest or gap <= state.config.rebalance_spread * mean:
        return []
    # Each move closes the gap from both sides; stop half way, and never turn the order round. In whole numbers: as
    # fractions a gap of exactly one move can come to 0.9999 moves.
    full, empty = capacity[fullest], capacity[emptiest]
    level = (counts[fullest] * empty - counts[emptiest] * full) // (full + empty)
    moves = min(state.config.rebalance_moves_max, level)
    regions = [r for r in _serving(state, fullest) if r not in tried][:moves]
    placements = [Placement(r, lane) for r in regions if (lane := pool.take(1, only=[emptiest]))]
    if not placements:
        return []
    why = f"rebalance: {fullest} owns {regions_said(counts[fullest])}, {emptiest} {counts[emptiest]}"
    command = checked(state, StartMigration(moves=tuple(placements), who="metasrv", why=why, wall_ms=wall_ms))
    return [
        Decision("migration", f"{regions_said(len(placements))} to move from {fullest} to {emptiest}: {why}", command)
    ]


def _serving(state: State, node_id: str) -> list[int]:
    lanes = sorted(state.open_lanes(node_id), key=lambda x: (-state.owned(x), x))
    for lane in lanes:
        found = [
            r for r in state.regions_of(lane) if state.regions[r].phase is Phase.SERVING and not state.reads_only(r)
        ]
        if found:
            return found
    return []
