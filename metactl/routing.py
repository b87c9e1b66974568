"""What a drill reads from routes: who serves, who moved, which site."""

from collections.abc import Callable, Mapping

from groundwork.core.errors import Refused
from metactl.timeline import Ack, Fault
from protos.metasrv.v1 import routes_pb2, types_pb2


def serving(routes: routes_pb2.RoutesReply) -> bool:
    """Whether every region of the table serves."""
    return bool(routes.routes) and all(r.phase == types_pb2.SERVING for r in routes.routes)


def table_serves(routes: Callable[[], routes_pb2.RoutesReply]) -> bool:
    """Whether every region of a table that was just made serves; a replica may not have heard of the table yet."""
    try:
        return serving(routes())
    except Refused as refused:
        if refused.kind == "not_found":
            return False
        raise


def served_elsewhere(routes: routes_pb2.RoutesReply, fault: Fault) -> bool:
    """Whether every region that was hit serves on a node that was not."""
    hit = frozenset(fault.regions)
    mine = [r for r in routes.routes if r.region_id in hit]
    return all(r.phase == types_pb2.SERVING and r.node_id not in fault.nodes for r in mine)


def moved_regions(before: routes_pb2.RoutesReply, after: routes_pb2.RoutesReply, fault: Fault) -> int:
    """How many of the regions that were hit another incarnation owns now."""
    hit = frozenset(fault.regions)
    old = {r.region_id: r.incarnation for r in before.routes if r.region_id in hit}
    return sum(r.incarnation != old[r.region_id] for r in after.routes if r.region_id in old)


def site_of_acks(before: routes_pb2.RoutesReply, after: routes_pb2.RoutesReply, fault: Fault) -> Callable[[Ack], str]:
    """Which site served an ack: that of the region's owner before the fault, of its last owner after it."""
    old: Mapping[int, str] = {r.region_id: r.locality.partition("/")[0] for r in before.routes}
    new: Mapping[int, str] = {r.region_id: r.locality.partition("/")[0] for r in after.routes}
    return lambda ack: (old if ack.at_ms <= fault.ended_ms else new).get(ack.region_id, "unknown")
