"""The JSON documents of the HTTP API, and the OpenAPI document that is generated from them.

Ids and epochs are 64-bit numbers: programs in JavaScript must read them as text, so each has a hexadecimal twin.
"""

from typing import Any

import msgspec
from msgspec import Struct

VERSION = "1"


class RouteDoc(Struct, frozen=True):
    """Where one region is. `epoch` goes into every request to the datanode."""

    region_id: int
    region: str
    table_id: int
    partition: int
    node_id: str
    incarnation: int
    address: str
    locality: str
    epoch: int
    epoch_hex: str
    phase: str


class ColumnDoc(Struct, frozen=True):
    """One column. `role` is tag, time or field."""

    name: str
    type: str
    role: str
    since_version: int


class TableDoc(Struct, frozen=True):
    """One table."""

    table_id: int
    name: str
    schema_version: int
    columns: list[ColumnDoc]
    partition_columns: list[str]
    regions: int
    priority: int


class RoutesDoc(Struct, frozen=True):
    """GET /v1/routes."""

    revision: int
    table: TableDoc
    routes: list[RouteDoc]


class RegionDoc(Struct, frozen=True):
    """GET /v1/routes/regions/{region_id}."""

    revision: int
    route: RouteDoc


class ReplicaDoc(Struct, frozen=True):
    """One replica of metasrv."""

    node_id: str
    address: str
    locality: str
    leader: bool
    reachable: bool
    applied_revision: int


class NodeDoc(Struct, frozen=True):
    """One datanode. `silent_ms` is since any replica heard it, as the leader knows."""

    node_id: str
    incarnation: int
    address: str
    locality: str
    status: str
    silent_ms: int
    regions: int
    capacity_regions: int
    unflushed_bytes: int
    lanes: list[str]


class PauseDoc(Struct, frozen=True):
    """A scope that the leader leaves alone for a while."""

    scope: str
    reason: str
    who: str
    expires_wall_ms: int


class ClusterDoc(Struct, frozen=True):
    """GET /v1/cluster."""

    cluster_id: str
    revision: int
    term: int
    leader_id: str
    lease_ms: int
    replicas: list[ReplicaDoc]
    nodes: list[NodeDoc]
    tables: int
    regions: int
    regions_by_phase: dict[str, int]
    pauses: list[PauseDoc]


class EventDoc(Struct, frozen=True):
    """One data line of GET /v1/events."""

    revision: int
    wall_ms: int
    kind: str
    sentence: str
    fields: dict[str, str]


class HealthDoc(Struct, frozen=True):
    """GET /health and /ready."""

    ok: bool
    node_id: str
    leader_id: str
    revision: int


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    """`kind` is for programs. A stale caller (409) gets the current owner and epoch."""

    kind: str
    message: str
    field: str = ""
    route: RouteDoc | None = None


class ErrorDoc(Struct, frozen=True):
    """Every answer that is not 2xx."""

    error: ErrorBody


def _parameter(name: str, where: str, what: str, required: bool = False, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "description": what, "schema": {"type": kind}}


_EPOCH = _parameter(
    "epoch", "query", "the epoch that the caller holds; 409 where it is not the current one", kind="integer"
)
_PATHS: dict[str, tuple[str, type[Struct] | None, list[dict[str, Any]], tuple[int, ...]]] = {
    "/v1/routes": (
        "A table and where its regions are; with all partition tags as tag.NAME=VALUE, the one region of that key",
        RoutesDoc,
        [_parameter("table", "query", "the table's name", required=True), _EPOCH],
        (400, 404, 409, 503),
    ),
    "/v1/routes/regions/{region_id}": (
        "Where one region is",
        RegionDoc,
        [_parameter("region_id", "path", "decimal or 0x hexadecimal", required=True), _EPOCH],
        (400, 404, 409, 503),
    ),
    "/v1/cluster": ("Replicas, datanodes and counts", ClusterDoc, [], (503,)),
    "/v1/events": (
        "The audit trail as server-sent events, each data line an Event; goes on as things happen",
        EventDoc,
        [_parameter("from_revision", "query", "only what came after it; Last-Event-ID does the same", kind="integer")],
        (400,),
    ),
    "/health": ("This process runs", HealthDoc, [], ()),
    "/ready": ("This replica knows a leader and has applied the state", HealthDoc, [], (503,)),
    "/metrics": ("Prometheus metrics", None, [], ()),
}


def openapi(node_id: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = [kind for _, kind, _, _ in _PATHS.values() if kind is not None]
    _, components = msgspec.json.schema_components([*kinds, ErrorDoc], ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for path, (what, kind, parameters, errors) in _PATHS.items():
        media = "text/event-stream" if path == "/v1/events" else "application/json"
        ok: dict[str, Any] = {"description": what}
        ok["content"] = (
            {"text/plain": {"schema": {"type": "string"}}}
            if kind is None
            else {media: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
        )
        failed = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorDoc"}}}
        responses = {"200": ok} | {str(code): {"description": "see error.kind", "content": failed} for code in errors}
        paths[path] = {"get": {"summary": what, "parameters": parameters, "responses": responses}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "metasrv", "version": VERSION, "description": f"Any replica answers; this is {node_id}."},
        "paths": paths,
        "components": {"schemas": components},
    }
