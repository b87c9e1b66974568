"""Why things are as they are: sentences with figures, from the state and its audit trail (P6)."""

import datetime

from groundwork.core.ids import region_text, table_of, token_text
from metasrv.core.events import Event, regions_said
from metasrv.core.leases import NodeView
from metasrv.core.placement import pause_of
from metasrv.core.records import NodeStatus, Phase
from metasrv.core.state import State

SENTENCES_MAX = 100
_FOR_ALL = ("breaker", "transfer", "credit", "bootstrap")


def explain_node(state: State, node_id: str, view: NodeView | None = None) -> list[str]:
    """What the node is now, then what happened to it, oldest first. `view` is what the leader sees, where known."""
    node = state.nodes.get(node_id)
    if node is None:
        now = [f"{node_id} is not registered."]
    else:
        regions, lanes = state.node_region_count(node_id), len(state.open_lanes(node_id))
        room = node.capacity_regions or "any number"
        how = node.status.name.lower() + (f" ({node.why})" if node.why else "")
        now = [
            f"{node_id} ({node.locality}, {node.address}) is {how}: incarnation {token_text(node.incarnation)}, "
            f"{lanes} open lane{'' if lanes == 1 else 's'}, {regions_said(regions)} of at most {room}."
        ]
        if view and node.status <= NodeStatus.SUSPECT:
            now.append(f"It was heard {view.silent_ms:,.0f} ms ago; the lease is {state.config.lease_ms:,} ms.")
        if view and view.why_unwell:
            now.append(f"It is unwell: {view.why_unwell}.")
        drain = state.drains.get(node_id)
        if drain:
            now.append(f"It is being drained for {drain.who or 'somebody'}: {regions_said(regions)} to go.")
        pause = pause_of(state, 0, node_id)
        if pause:
            now.append(f"{pause.scope} is paused by {pause.who or 'somebody'}: {pause.reason or 'no reason given'}.")
        lost = sum(state.owned(lane) for lane in state.lost_lanes() if lane.node_id == node_id)
        if lost:
            now.append(f"{regions_said(lost)} of its ended lanes without a new owner yet.")
    told = [e for e in state.audit if node_id in e.node_ids or e.kind in _FOR_ALL]
    return now + [_told(e) for e in told[-SENTENCES_MAX:]]


def explain_region(state: State, region_id: int) -> list[str]:
    """Where the region is and why, then what happened to it, oldest first."""
    region = state.regions.get(region_id)
    table = state.tables.get(table_of(region_id))
    if region is None:
        why = "; its table was dropped" if table_of(region_id) < state.next_table_id else ""
        if why and state.generation > 1:  # a start from backup leaves out ids that may have been given after it (T20)
            why += ", or was made after a backup from which the cluster began again"
        return [f"Region {region_text(region_id)} does not exist{why}."]
    phase = state.phase_of(region)
    name = table.name if table else str(table_of(region_id))
    now = [
        f"Region {region_text(region_id)} of table {name} is {phase.name.lower()} on {region.lane.node_id}, "
        f"lane {region.lane}, epoch {token_text(region.epoch)}."
    ]
    if phase is Phase.LOST:
        now.append(f"Lane {region.lane} is over and no new owner is committed yet.")
    migration = state.migrations.get(region_id)
    if migration:
        how = "its owner was told to stop" if migration.stopping else "the target is catching up"
        to = migration.target.node_id
        now.append(
            f"It is being moved to {to} (attempt {token_text(migration.attempt)}): {how}; "
            f"{migration.why or 'no reason given'}."
        )
    failure = state.failures.get(region_id)
    if failure:
        now.append(f"Its owner reported, {failure.times} times: {failure.kind}, {failure.message or 'no message'}.")
        if failure.accepted:
            now.append("An operator accepted the loss: it is to serve without the damaged entries.")
    for stay in region.stays:
        over = "over" if state.is_over(stay.lane) else "open"
        now.append(
            f"It needs lane {stay.lane} ({over}) from {stay.covered} on, in its stay of epoch {token_text(stay.epoch)}."
        )
    told = [e for e in state.audit if _concerns(e, region_id, region.epoch, region.stay_epoch)]
    return now + [_told(e) for e in told[-SENTENCES_MAX:]]


def _concerns(event: Event, region_id: int, *tokens: int) -> bool:
    return region_id in event.region_ids or (event.token in tokens and event.kind in ("failover", "handover", "cancel"))


def _told(event: Event) -> str:
    when = ""
    if event.wall_ms:
        at = datetime.datetime.fromtimestamp(event.wall_ms / 1000, datetime.UTC)
        when = f"{at:%Y-%m-%d %H:%M:%S}.{event.wall_ms % 1000:03d}Z, "
    return f"{when}revision {event.revision}: {event.sentence}."
