"""The core's records as messages."""

from collections.abc import Iterable
from typing import cast

from groundwork.core.table import TableInfo
from groundwork.core.wire import lane_to_wire, table_to_wire
from metasrv.core.events import Event
from metasrv.core.leases import Beat, Grant, LaneHealth, Refusal
from metasrv.core.orders import Order, TrimOrder
from metasrv.core.planner import Plan
from metasrv.core.procedures import ProcedureView
from metasrv.core.routes import Route
from metasrv.core.state import State
from protos.metasrv.v1 import admin_pb2, heartbeat_pb2, nodes_pb2, types_pb2


def beat_from_wire(beat: heartbeat_pb2.BeatRequest) -> Beat:
    """A heartbeat for the core."""
    return Beat(
        beat.sender.node_id,
        beat.sender.incarnation,
        tuple(LaneHealth(lane.index, lane.open, lane.append_age_ms) for lane in beat.lanes),
        beat.store_probe_age_ms,
        beat.unflushed_bytes,
        beat.memory_bytes,
        beat.write_rows_per_s,
    )


def grant_to_wire(grant: Grant) -> heartbeat_pb2.Grant:
    """A lease."""
    return heartbeat_pb2.Grant(
        lease_ms=grant.lease_ms, assignment_revision=grant.assignment_revision, lanes=grant.lanes
    )


def refusal_to_wire(refusal: Refusal) -> heartbeat_pb2.Refusal.ValueType:
    """Why there is no lease."""
    return cast(heartbeat_pb2.Refusal.ValueType, int(refusal))


def order_to_wire(order: Order) -> nodes_pb2.Order:
    """One order."""
    return nodes_pb2.Order(
        region_id=order.region_id,
        table_id=order.table_id,
        kind=cast(nodes_pb2.OrderKind.ValueType, int(order.kind)),
        epoch=order.epoch,
        attempt=order.attempt,
        lane_index=order.lane_index,
        ends=[
            types_pb2.StayEnd(lane=lane_to_wire(e.lane), stay_epoch=e.stay_epoch, position=e.position)
            for e in order.ends
        ],
        over=[lane_to_wire(lane) for lane in order.over],
        from_lane=None if order.from_lane is None else lane_to_wire(order.from_lane),
        revision=order.revision,
        accept_loss=order.accept_loss,
        moved_to=None if order.moved_to is None else route_to_wire(order.moved_to),
    )


def trim_to_wire(trim: TrimOrder) -> nodes_pb2.TrimOrder:
    """One trim order."""
    return nodes_pb2.TrimOrder(lane=lane_to_wire(trim.lane), below=trim.below)


def route_to_wire(route: Route) -> types_pb2.Route:
    """One route."""
    return types_pb2.Route(
        region_id=route.region_id,
        table_id=route.table_id,
        partition=route.partition,
        node_id=route.node_id,
        incarnation=route.incarnation,
        address=route.address,
        epoch=route.epoch,
        phase=cast(types_pb2.Phase.ValueType, int(route.phase)),
        locality=route.locality,
    )


def tables_to_wire(state: State, tables: Iterable[TableInfo]) -> list[types_pb2.Table]:
    """Tables with their priority."""
    found = []
    for table in tables:
        record = state.tables.get(table.table_id)
        found.append(table_to_wire(table, record.priority if record else 0))
    return found


def event_to_wire(event: Event) -> admin_pb2.Event:
    """One entry of the audit trail."""
    fields = dict(event.fields)
    if event.node_ids:
        fields.setdefault("node_ids", ",".join(event.node_ids))
    if event.region_ids:
        fields.setdefault("region_ids", ",".join(str(r) for r in event.region_ids))
    if event.token:
        fields.setdefault("token", str(event.token))
    return admin_pb2.Event(
        revision=event.revision, wall_ms=event.wall_ms, kind=event.kind, sentence=event.sentence, fields=fields
    )


def plan_to_wire(plan: Plan, committed: bool, procedure_id: int = 0) -> admin_pb2.PlanReply:
    """A plan, as a dry run or as committed."""
    summary = plan.sentence
    if plan.unplaced:
        summary += f"; {plan.unplaced} cannot be placed: {plan.why_unplaced}"
    return admin_pb2.PlanReply(
        committed=committed,
        procedure_id=procedure_id,
        summary=summary,
        steps=[
            admin_pb2.PlanStep(region_id=s.region_id, from_node=s.from_node, to_node=s.to_node, why=s.why)
            for s in plan.steps
        ],
    )


def procedure_to_wire(view: ProcedureView) -> admin_pb2.Procedure:
    """One procedure."""
    return admin_pb2.Procedure(
        procedure_id=view.procedure_id,
        kind=view.kind,
        state=view.state,
        region_id=view.region_id,
        from_node=view.from_node,
        to_node=view.to_node,
        why=view.why,
        started_wall_ms=view.started_wall_ms,
        ended_wall_ms=view.ended_wall_ms,
    )
