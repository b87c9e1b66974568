"""Who may call what, under mutual TLS: one table. Without certificates (loopback only) everybody may.

A certificate says who its holder is by the node ids on it: a replica of this cluster, a registered datanode, or, with
neither, somebody outside: an operator's tool or a frontend.
"""

import enum
from collections.abc import Collection, Set
from typing import Any

from groundwork.core.errors import BadInput, PermissionDenied


class Role(enum.Flag):
    """What the holder of a certificate is."""

    REPLICA = enum.auto()
    NODE = enum.auto()
    OUTSIDE = enum.auto()  # operators and frontends


_ALL = Role.REPLICA | Role.NODE | Role.OUTSIDE
_NOT_NODES = Role.REPLICA | Role.OUTSIDE  # followers pass on what came from outside

# By method, else by service. What is not here is refused to everybody.
ROLES: dict[str, Role] = {
    "/raft.v1.Raft/": Role.REPLICA,
    "/metasrv.v1.Replicas/": Role.REPLICA,
    "/metasrv.v1.Heartbeat/": _ALL,  # and only for the node id that it carries, see below
    "/metasrv.v1.Nodes/": _ALL,
    "/metasrv.v1.Routes/": _ALL,
    "/metasrv.v1.Catalog/ListTables": _ALL,
    "/metasrv.v1.Catalog/CreateTable": _NOT_NODES,
    "/metasrv.v1.Catalog/WidenTable": _NOT_NODES,
    "/metasrv.v1.Catalog/DropTable": _NOT_NODES,
    "/metasrv.v1.Admin/Status": _ALL,
    "/metasrv.v1.Admin/Procedures": _ALL,
    "/metasrv.v1.Admin/Explain": _ALL,
    "/metasrv.v1.Admin/Events": _ALL,
    "/metasrv.v1.Admin/Drain": _ALL,  # a datanode only its own
    "/metasrv.v1.Admin/Migrate": _NOT_NODES,
    "/metasrv.v1.Admin/Pause": _NOT_NODES,
    "/metasrv.v1.Admin/Resume": _NOT_NODES,
    "/metasrv.v1.Admin/Cancel": _NOT_NODES,
    "/metasrv.v1.Admin/TransferLeader": _NOT_NODES,
    "/metasrv.v1.Admin/AcceptLoss": _NOT_NODES,
}
_AS_ITSELF = ("/metasrv.v1.Heartbeat/", "/metasrv.v1.Nodes/")
_DRAIN = "/metasrv.v1.Admin/Drain"


def role_of(names: Set[str], replicas: Collection[str], nodes: Collection[str]) -> Role:
    """What the holder of a certificate with these names is. A replica's counts as one, whatever else it names."""
    if any(name in replicas for name in names):
        return Role.REPLICA
    return Role.NODE if any(name in nodes for name in names) else Role.OUTSIDE


def check_role(
    method: str, names: Set[str], node_id: str, request: Any, replicas: Collection[str], nodes: Collection[str]
) -> None:
    """Raise BadInput for who poses as another, PermissionDenied for who may not. `node_id` is the sender's."""
    role = role_of(names, replicas, nodes)
    service = method[: method.rfind("/") + 1]
    allowed = ROLES.get(method) or ROLES.get(service) or Role(0)
    if allowed is Role.REPLICA:
        if role is not Role.REPLICA or (node_id and node_id not in names):
            raise BadInput("certificate", f"{sorted(names)} is not that of the replica {node_id or '(unnamed)'}")
        return
    if service in _AS_ITSELF and node_id not in names and role is not Role.REPLICA:
        raise BadInput("certificate", f"{sorted(names)} is not that of the node {node_id}")
    others = method == _DRAIN and role is Role.NODE and request.node_id not in names
    if others or not role & allowed:
        what = method.removeprefix("/metasrv.v1.").replace("/", ".")
        raise PermissionDenied(
            f"{sorted(names)} is the certificate of a datanode, which may not ask for {what}"
            f"{' of another node' if others else ''}: use an operator's certificate (deploy/certificates.md)"
            if role is Role.NODE
            else f"nobody may ask for {what}: it is not in the table of roles of this version"
        )
