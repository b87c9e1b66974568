"""A node's orders: a pure function of the replicated state, at most one per region on a node.

Kinds and fields map one to one to metasrv.v1.Order.
"""

import enum
from collections.abc import Iterable

from msgspec import Struct

from groundwork.core.ids import Lane, table_of
from metasrv.core.records import Migration, NodeStatus, Phase, Region, StayEnd
from metasrv.core.routes import Route, route_of
from metasrv.core.state import State


class OrderKind(enum.IntEnum):
    """The values of metasrv.v1.OrderKind."""

    OPEN = 1
    STOP = 2
    RESUME = 3
    PREPARE = 4
    CLOSE = 5
    DROP = 6


class Order(Struct, frozen=True):
    """One order. `over` are lanes committed as over that the claim may seal; `ends` committed hand-over positions."""

    region_id: int
    table_id: int
    kind: OrderKind
    epoch: int
    attempt: int = 0
    lane_index: int = 0
    ends: tuple[StayEnd, ...] = ()
    over: tuple[Lane, ...] = ()
    from_lane: Lane | None = None
    revision: int = 0  # of the state that it was read from
    accept_loss: bool = False  # serve without damaged entries: an operator accepted that they are lost
    moved_to: Route | None = None  # of a CLOSE: who has the region now


class TrimOrder(Struct, frozen=True):
    """Positions of a lane that may be deleted."""

    lane: Lane
    below: int


def orders_of(state: State, node_id: str) -> list[Order]:
    """Every order of the node's current incarnation, by region id. Regions not named are to be closed."""
    regions = {r for lane in state.open_lanes(node_id) for r in state.staying.get(lane, ())}
    regions.update(r for r, m in state.migrations.items() if m.target.node_id == node_id)
    orders = (order_for(state, node_id, r) for r in sorted(regions))
    return [o for o in orders if o.kind is not OrderKind.CLOSE]


def orders_for(state: State, node_id: str, region_ids: Iterable[int]) -> list[Order]:
    """The delta for some regions: CLOSE where the node has no business with the region (any more)."""
    return [order_for(state, node_id, r) for r in sorted(set(region_ids))]


def order_for(state: State, node_id: str, region_id: int) -> Order:
    """The one order of a node for a region."""
    region = state.regions.get(region_id)
    node = state.nodes.get(node_id)
    if region is not None and node is not None:
        migration = state.migrations.get(region_id)
        if (region.lane.node_id, region.lane.incarnation) == (node_id, node.incarnation) and not state.is_over(
            region.lane
        ):
            return _owner_order(state, region_id, region, migration)
        if migration and migration.target.node_id == node_id and not state.is_over(migration.target):
            return Order(
                region_id, table_of(region_id), OrderKind.PREPARE, region.epoch, migration.attempt,
                migration.target.index, from_lane=region.lane, revision=state.revision,
            )  # fmt: skip
    route = route_of(state, region_id)
    return Order(
        region_id, table_of(region_id), OrderKind.CLOSE, region.epoch if region else 0, revision=state.revision,
        moved_to=route if route is not None and route.phase is not Phase.LOST else None,
    )  # fmt: skip


def _owner_order(state: State, region_id: int, region: Region, migration: Migration | None) -> Order:
    kind, attempt = OrderKind.OPEN, 0
    if region.phase is Phase.DROPPING:
        kind = OrderKind.DROP
    elif region.phase is Phase.STOPPING and migration:
        kind, attempt = OrderKind.STOP, migration.attempt
    elif region.stay_epoch < region.epoch:
        kind = OrderKind.RESUME  # in the stay it has: an OPEN would claim, and meet its own open stay
    over = tuple(sorted({s.lane for s in region.stays if state.is_over(s.lane)}))
    return Order(
        region_id, table_of(region_id), kind, region.epoch, attempt, region.lane.index, region.ends, over,
        region.lane, state.revision, kind is OrderKind.OPEN and _accepted(state, region_id),
    )  # fmt: skip


def _accepted(state: State, region_id: int) -> bool:
    failure = state.failures.get(region_id)
    return failure is not None and failure.accepted


def trimmer_of(state: State, lane: Lane) -> str | None:
    """Who carries out the trims of a lane: its writer; where it is over the same node, or the first that is up."""
    if not state.is_over(lane):
        return lane.node_id
    node = state.nodes.get(lane.node_id)
    if node and node.status is NodeStatus.UP:
        return node.node_id
    return min((n.node_id for n in state.nodes.values() if n.status is NodeStatus.UP), default=None)


def trim_orders_of(state: State, node_id: str) -> list[TrimOrder]:
    """Every trim order of a node, by lane."""
    return [
        TrimOrder(lane, record.trim)
        for lane, record in state.lane_records()
        if record.trim and trimmer_of(state, lane) == node_id
    ]
