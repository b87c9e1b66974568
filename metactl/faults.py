"""The faults of a drill: what is killed, stopped, woken or started again. Processes only, by their own groups."""

import signal
from collections.abc import Mapping
from typing import NamedTuple

from groundwork.adapters.clock import boottime_ms
from groundwork.core.errors import BadInput
from metactl.cluster import Cluster
from metactl.timeline import Fault
from protos.metasrv.v1 import routes_pb2


class Aim(NamedTuple):
    """What a fault hits, and whether metasrv's leadership is moved to its site first."""

    names: tuple[str, ...]
    leader_first: bool
    signal: signal.Signals
    text: str


AIMS: Mapping[str, Aim] = {
    "site": Aim(("metasrv-1", "dn-1", "dn-2", "fe-1"), True, signal.SIGKILL, "SIGKILL to everything in site 1"),
    "node": Aim(("dn-1",), False, signal.SIGKILL, "SIGKILL to datanode dn-1"),
    "leader": Aim(("metasrv-1", "dn-1"), True, signal.SIGKILL, "SIGKILL to the metasrv leader and dn-1 together"),
    "pause": Aim(("dn-1",), False, signal.SIGSTOP, "SIGSTOP to datanode dn-1: alive, silent, and it will wake"),
    "restart": Aim(("dn-1",), False, signal.SIGKILL, "SIGKILL to datanode dn-1, started again at once"),
}


def aim_of(name: str) -> Aim:
    """What the fault of that name does. Raises BadInput."""
    if name not in AIMS:
        raise BadInput("--fault", f"{name!r} is not one of {', '.join(AIMS)}")
    return AIMS[name]


def strike(cluster: Cluster, name: str, before: routes_pb2.RoutesReply) -> Fault:
    """Do it, and return what was hit: the regions are those of the nodes in the routes just before."""
    aim = aim_of(name)
    hit = tuple(route.region_id for route in before.routes if route.node_id in aim.names)
    nodes = tuple(n for n in aim.names if cluster.layout.member(n).kind == "datanode")
    began_ms = boottime_ms()
    cluster.signal(aim.names, aim.signal)
    if aim.signal == signal.SIGKILL:
        cluster.kill(aim.names)
    ended_ms = boottime_ms()
    if name == "restart":
        for node in aim.names:
            cluster.spawn(node)
    return Fault(name, nodes, began_ms, ended_ms, hit)
