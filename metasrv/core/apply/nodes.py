"""Datanodes: registration, release, suspicion, drains."""

from msgspec.structs import replace

from groundwork.core.ids import Lane, Locality, check_node_id, token_text
from metasrv.core.apply.ownership import forget_lanes
from metasrv.core.commands import Clear, Drain, Forget, Register, Release, Suspect, Undrain
from metasrv.core.events import regions_said
from metasrv.core.records import Drain as DrainRecord
from metasrv.core.records import Node, NodeStatus
from metasrv.core.transaction import Refused, Transaction

NODES_MAX = 10_000


def register(tx: Transaction, cmd: Register) -> int:
    """A new incarnation; the value is its token. The old one's lanes are over with this very command."""
    state = tx.state
    check_node_id(cmd.node_id)
    Locality.parse(cmd.locality)
    old = state.nodes.get(cmd.node_id)
    if not state.next_token:
        raise Refused("the cluster has not been bootstrapped")
    if old is None and len(state.nodes) >= NODES_MAX:
        raise Refused(f"{NODES_MAX} datanodes are registered already")
    if cmd.replaces != (old.incarnation if old else 0):
        raise Refused(f"{cmd.node_id} is registered as {old.incarnation if old else 'nothing'} by now: look again")
    alive = old is not None and old.status <= NodeStatus.SUSPECT
    if old and old.folder_id != cmd.folder_id and alive and cmd.heard and not cmd.takeover:
        raise Refused(
            f"{cmd.node_id} is heard from {old.address} with another data folder: give this datanode an id of its own, "
            "or start it with --takeover"
        )
    incarnation = tx.token()
    orphans = 0
    if old:
        orphans = state.node_region_count(old.node_id)
        tx.end_lanes(lane for lane in state.lanes_of.get(cmd.node_id, ()))
        drain_record = state.drains.get(cmd.node_id)
        if drain_record and drain_record.by_node:
            del state.drains[cmd.node_id]
    for index in range(cmd.lanes):
        tx.add_lane(Lane(cmd.node_id, incarnation, index))
    tx.set_node(
        Node(
            cmd.node_id, incarnation, cmd.folder_id, cmd.locality, cmd.address, cmd.capacity_regions, cmd.lanes,
            NodeStatus.UP, registered_wall_ms=cmd.wall_ms,
        )
    )  # fmt: skip
    lanes = f"{cmd.lanes} lane{'s' if cmd.lanes > 1 else ''}"
    said = f"{cmd.node_id} ({cmd.locality}) registered as incarnation {token_text(incarnation)} with {lanes}"
    if old:
        how = "took over from" if old.folder_id != cmd.folder_id else "supersedes"
        said += f"; it {how} incarnation {token_text(old.incarnation)}, which owned {regions_said(orphans)}"
    tx.event("register", said, (cmd.node_id,), token=incarnation)
    forget_lanes(tx)
    return incarnation


def _current(tx: Transaction, node_id: str, incarnation: int) -> Node:
    node = tx.state.nodes.get(node_id)
    if node is None:
        raise Refused(f"{node_id} is not registered")
    if node.incarnation != incarnation:
        raise Refused(f"{node_id} is incarnation {token_text(node.incarnation)} by now, not {token_text(incarnation)}")
    return node


def release(tx: Transaction, cmd: Release) -> int:
    """Witnessed, so no suspicion first."""
    node = _current(tx, cmd.node_id, cmd.incarnation)
    if node.status > NodeStatus.SUSPECT:
        return 0  # a repeat, or it was failed over already
    regions = tx.state.node_region_count(cmd.node_id)
    witness = cmd.witness or "itself"
    tx.end_incarnation(node, NodeStatus.RELEASED, f"released by {witness}")
    said = f"{cmd.node_id} was released by {witness}; it owned {regions_said(regions)}"
    tx.event("release", said, (cmd.node_id,), witness=witness)
    return 0


def suspect(tx: Transaction, cmd: Suspect) -> int:
    """No grants from here on: that is what lets the next leader go on where this one stopped (T2)."""
    node = _current(tx, cmd.node_id, cmd.incarnation)
    if node.status is not NodeStatus.UP:
        raise Refused(f"{cmd.node_id} is {node.status.name.lower()} already")
    why = cmd.sentence or f"silent for {cmd.silent_ms:,} ms"
    tx.set_node(replace(node, status=NodeStatus.SUSPECT, silent_ms=cmd.silent_ms, why=why))
    tx.event("suspect", f"{cmd.node_id} is suspect: {why}", (cmd.node_id,), silent_ms=cmd.silent_ms)
    return 0


def clear(tx: Transaction, cmd: Clear) -> int:
    """Heard again, and not failed over yet."""
    node = _current(tx, cmd.node_id, cmd.incarnation)
    if node.status is not NodeStatus.SUSPECT:
        raise Refused(f"{cmd.node_id} is {node.status.name.lower()}, not suspect")
    tx.set_node(replace(node, status=NodeStatus.UP, silent_ms=0, why=""))
    tx.event("clear", f"{cmd.node_id} is not suspect any more: {cmd.sentence or 'it was heard'}", (cmd.node_id,))
    return 0


def forget(tx: Transaction, cmd: Forget) -> int:
    """Off the books. Its lanes stay known as long as a stay needs them; without a record they count as over."""
    state = tx.state
    node = state.nodes.get(cmd.node_id)
    if node is None:
        raise Refused(f"{cmd.node_id} is not registered")
    if node.status <= NodeStatus.SUSPECT:
        raise Refused(f"{cmd.node_id} is {node.status.name.lower()}: only a lost or released datanode can be forgotten")
    owned = sum(state.owned(lane) for lane in state.lanes_of.get(cmd.node_id, ()))
    if owned:
        raise Refused(f"{owned} regions of {cmd.node_id} have no new owner yet")
    tx.set_node(node)
    del state.nodes[cmd.node_id]
    state.drains.pop(cmd.node_id, None)
    tx.event("forget", f"{cmd.who or 'somebody'} took {cmd.node_id} off the books", (cmd.node_id,))
    return 0


def drain(tx: Transaction, cmd: Drain) -> int:
    """Begin (again: the same procedure goes on). The value is the procedure id."""
    if cmd.node_id not in tx.state.nodes:
        raise Refused(f"{cmd.node_id} is not registered")
    running = tx.state.drains.get(cmd.node_id)
    if running:
        return running.procedure_id
    procedure_id = tx.token()
    tx.state.drains[cmd.node_id] = DrainRecord(procedure_id, cmd.who, cmd.by_node, cmd.wall_ms)
    tx.set_node(tx.state.nodes[cmd.node_id])
    regions = tx.state.node_region_count(cmd.node_id)
    said = f"{cmd.who or 'somebody'} drains {cmd.node_id}: {regions_said(regions)} to go"
    tx.event("drain", said, (cmd.node_id,), token=procedure_id)
    return procedure_id


def undrain(tx: Transaction, cmd: Undrain) -> int:
    """The node may be given regions again. Moves in flight go on."""
    if cmd.node_id not in tx.state.drains:
        raise Refused(f"{cmd.node_id} is not being drained")
    procedure_id = tx.state.drains.pop(cmd.node_id).procedure_id
    if cmd.node_id in tx.state.nodes:
        tx.set_node(tx.state.nodes[cmd.node_id])
    said = f"{cmd.who or 'somebody'} ended the drain of {cmd.node_id}"
    tx.event("undrain", said, (cmd.node_id,), attempt=procedure_id)
    return 0
