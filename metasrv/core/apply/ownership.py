"""Failover, reopening and trimming.

A region leaves a lane only by that lane's end or by its owner's committed last position, never by a time-out: so a
failover moves regions of lanes that are over, and nothing else.
"""

from msgspec.structs import replace

from groundwork.core.ids import Lane, region_text
from metasrv.core.commands import AcceptLoss, Failover, Reopen, Trim
from metasrv.core.events import regions_said
from metasrv.core.orders import trimmer_of
from metasrv.core.records import NodeStatus, Phase
from metasrv.core.transaction import Refused, Transaction

LANES_KEPT = 1_000  # of those that are finished


def failover(tx: Transaction, cmd: Failover) -> int:
    """End what is to end, and give its regions away. Refused as a whole when the plan was made for another state."""
    state = tx.state
    ending = _judge_ended(tx, cmd)
    for move in cmd.moves:
        if not state.is_over(move.source) and move.source not in ending:
            raise Refused(f"lane {move.source} is not over: its regions stay")
        target = state.nodes.get(move.target.node_id)
        if state.is_over(move.target) or move.target in ending or target is None:
            raise Refused(f"lane {move.target} is over: plan again")
        if target.status is not NodeStatus.UP:
            raise Refused(f"{target.node_id} is {target.status.name.lower()} by now: plan again")
    ended = moved = 0
    for end in cmd.ended:
        node = state.nodes[end.node_id]
        if node.status <= NodeStatus.SUSPECT:
            tx.end_incarnation(node, NodeStatus.LOST, f"failed over: {end.cause}")
            ended += 1
    tx.end_lanes(sorted(ending))
    for move in cmd.moves:
        for region_id in state.regions_of(move.source) if move.region_ids is None else sorted(set(move.region_ids)):
            region = state.regions.get(region_id)
            if region is not None and region.lane == move.source:
                tx.assign(region_id, move.target)
                moved += 1
    if not (ended or moved or ending):
        raise Refused("there is nothing left to fail over")
    nodes = (
        [e.node_id for e in cmd.ended] + [m.source.node_id for m in cmd.moves] + [m.target.node_id for m in cmd.moves]
    )
    tx.event("failover", cmd.sentence or f"{regions_said(moved)} failed over", nodes, token=tx.epoch(), moved=moved)
    return tx.epoch()


def _judge_ended(tx: Transaction, cmd: Failover) -> set[Lane]:
    state, ending = tx.state, set[Lane]()
    for end in cmd.ended:
        node = state.nodes.get(end.node_id)
        if node is None or node.incarnation != end.incarnation:
            raise Refused(f"{end.node_id} is not incarnation {end.incarnation} by now: plan again")
        if end.cause == "silent" and node.status is NodeStatus.UP:
            raise Refused(f"{end.node_id} was cleared: it is not to be failed over")
        ending.update(state.open_lanes(end.node_id))
    for lane in cmd.lanes:
        if lane not in state.lanes:
            raise Refused(f"lane {lane} is not known")
        if not state.is_over(lane):
            ending.add(lane)
    return ending


def reopen(tx: Transaction, cmd: Reopen) -> int:
    """The same lane under a new epoch (the value), for regions that their owner reported as failed to open."""
    state = tx.state
    chosen = []
    for region_id in sorted(set(cmd.region_ids)):
        region = state.regions.get(region_id)
        if region and region_id in state.failures and region.phase is Phase.OPENING and not state.is_over(region.lane):
            chosen.append(region_id)
    if not chosen:
        raise Refused("none of these regions is waiting to be opened again")
    for region_id in chosen:
        failure = state.failures[region_id]
        tx.assign(region_id, state.regions[region_id].lane)
        state.failures[region_id] = failure  # how often it failed is still wanted
    nodes = sorted({state.regions[r].lane.node_id for r in chosen})
    tx.event("reopen", cmd.sentence or f"{regions_said(len(chosen))} to open again under a new epoch", nodes, chosen)
    return tx.epoch()


def accept_loss(tx: Transaction, cmd: AcceptLoss) -> int:
    """The same lane under a new epoch (the value), to be claimed and served without the damaged entries."""
    state, region, name = tx.state, tx.state.regions.get(cmd.region_id), region_text(cmd.region_id)
    failure = state.failures.get(cmd.region_id)
    if region is None or failure is None or not failure.read_only or failure.kind != "damaged":
        raise Refused(f"region {name} is not read-only for damaged entries: there is no loss to accept")
    if failure.accepted or region.phase not in (Phase.OPENING, Phase.SERVING) or state.is_over(region.lane):
        raise Refused(f"region {name} is on its way to serve, or to another owner, already")
    state.failures[cmd.region_id] = replace(failure, accepted=True)
    tx.assign(cmd.region_id, region.lane)
    node_id = region.lane.node_id
    said = f"{cmd.who or 'somebody'} accepts a loss in region {name} on {node_id}: {failure.message}"
    tx.event("accept_loss", said, (node_id,), (cmd.region_id,), who=cmd.who, lost=failure.message)
    return tx.epoch()


def trim(tx: Transaction, cmd: Trim) -> int:
    """Commit trim points. One that some stay stands below is rejected: an assignment came between."""
    state = tx.state
    for at, point in enumerate(cmd.points):
        if point.lane not in state.lanes:
            tx.reject(at, f"lane {point.lane} is not known")
        elif point.below > state.trim_limit(point.lane):
            tx.reject(at, f"a stay needs lane {point.lane} below {point.below}")
        else:
            tx.set_trim(point.lane, point.below, trimmer_of(state, point.lane))
    forget_lanes(tx)
    return len(cmd.points) - len(tx.rejected)


def forget_lanes(tx: Transaction) -> None:
    """Keep the newest finished lanes only: over, owned by nobody, needed by no stay, trimmed to their end.

    Newest, since a last trim point is told from here: whoever carries it out has not heard of it yet.
    """
    state = tx.state
    if len(state.lanes) <= LANES_KEPT:
        return
    finished = [
        lane for lane, r in state.lanes.items() if r.over and not state.staying.get(lane) and r.trim >= r.reached
    ]
    excess = len(finished) - LANES_KEPT
    for lane in sorted(finished, key=lambda x: (x.incarnation, x.index))[: max(0, excess)]:
        del state.lanes[lane]
        state.staying.pop(lane, None)
        state.census.pop(lane, None)
        state.lanes_of[lane.node_id].remove(lane)
