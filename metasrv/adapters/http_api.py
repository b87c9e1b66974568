"""HTTP and JSON for people, dashboards and programs without gRPC. Reads only; errors are typed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from groundwork.core.errors import BadInput, MetasrvError, Refused
from groundwork.core.ids import region_text
from metasrv.adapters import http_docs as docs
from metasrv.adapters.admin_api import Admin
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.routes_api import Routes
from metasrv.adapters.status import StatusFace
from metasrv.core.machine import Machine
from metasrv.core.ports import Consensus
from protos.metasrv.v1 import admin_pb2, routes_pb2, types_pb2

Handler = Callable[[Request], Awaitable[Response]]


class HttpFace:
    """The routes of the Starlette application."""

    def __init__(
        self,
        *,
        node_id: str,
        machine: Machine,
        consensus: Consensus,
        routes: Routes,
        admin: Admin,
        status: StatusFace,
        metrics: Metrics,
        fresh: Callable[[], None],
    ) -> None:
        self._node_id = node_id
        self._machine = machine
        self._consensus = consensus
        self._routes = routes
        self._admin = admin
        self._status = status
        self._metrics = metrics
        self._fresh = fresh  # brings the gauges up to date

    def app(self) -> Starlette:
        """The application."""
        handlers: dict[str, Handler] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._render_metrics,
            "/openapi.json": self._openapi,
            "/v1/routes": self._table_routes,
            "/v1/routes/regions/{region_id}": self._region_route,
            "/v1/cluster": self._cluster,
            "/v1/events": self._events,
        }
        app = Starlette(routes=[Route(path, _typed(handler)) for path, handler in handlers.items()])
        app.add_exception_handler(404, _not_found)
        return app

    async def _health(self, request: Request) -> Response:
        return _json(self._health_doc(True))

    async def _ready(self, request: Request) -> Response:
        ok = self._consensus.leadership().leader_id is not None and bool(self._machine.state.cluster_id)
        return _json(self._health_doc(ok), 200 if ok else 503)

    def _health_doc(self, ok: bool) -> docs.HealthDoc:
        leader = self._consensus.leadership().leader_id or ""
        return docs.HealthDoc(ok, self._node_id, leader, self._machine.state.revision)

    async def _render_metrics(self, request: Request) -> Response:
        self._fresh()
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        return _json(docs.openapi(self._node_id))

    async def _table_routes(self, request: Request) -> Response:
        query = request.query_params
        tags = {k.removeprefix("tag."): v for k, v in query.items() if k.startswith("tag.")}
        unknown = [k for k in query if k not in ("table", "epoch") and not k.startswith("tag.")]
        if unknown:
            raise BadInput(unknown[0], "unknown parameter; known: table, tag.NAME, epoch")
        if not query.get("table"):
            raise BadInput("table", "name the table: /v1/routes?table=NAME")
        reply = await self._routes.find(
            routes_pb2.RoutesRequest(sender=self._sender(), table=query["table"], tags=tags), None
        )
        routes = [_route(r) for r in reply.routes]
        stale = _stale(query.get("epoch"), routes)
        return stale or _json(docs.RoutesDoc(reply.revision, _table(reply.table), routes))

    async def _region_route(self, request: Request) -> Response:
        region_id = _number("region_id", request.path_params["region_id"])
        reply = await self._routes.find(routes_pb2.RoutesRequest(region_ids=[region_id]), None)
        if not reply.routes:
            raise Refused("not_found", f"there is no region {region_text(region_id)}")
        route = _route(reply.routes[0])
        return _stale(request.query_params.get("epoch"), [route]) or _json(docs.RegionDoc(reply.revision, route))

    async def _cluster(self, request: Request) -> Response:
        return _json(_cluster(await self._status.of_cluster(admin_pb2.StatusRequest(sender=self._sender()), None)))

    async def _events(self, request: Request) -> Response:
        after = request.headers.get("last-event-id") or request.query_params.get("from_revision") or "0"
        from_revision = _number("from_revision", after)

        async def lines() -> AsyncIterator[bytes]:
            async for event in self._admin.events(from_revision, follow=True):
                doc = docs.EventDoc(event.revision, event.wall_ms, event.kind, event.sentence, dict(event.fields))
                yield f"id: {event.revision}\nevent: {event.kind}\ndata: ".encode() + msgspec.json.encode(doc) + b"\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    def _sender(self) -> types_pb2.Sender:
        return types_pb2.Sender(cluster_id=self._machine.state.cluster_id)


def _typed(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except BadInput as error:
            message = str(error).removeprefix(f"{error.field}: ")
            return _json(docs.ErrorDoc(docs.ErrorBody("bad_input", message, error.field)), 400)
        except Refused as error:
            status = 404 if error.kind == "not_found" else 409
            return _json(docs.ErrorDoc(docs.ErrorBody(error.kind, str(error))), status)
        except MetasrvError as error:
            return _json(docs.ErrorDoc(docs.ErrorBody("unavailable", str(error))), 503)

    return answer


async def _not_found(request: Request, error: Exception) -> Response:
    message = f"there is nothing at {request.url.path}; see /openapi.json"
    return _json(docs.ErrorDoc(docs.ErrorBody("not_found", message)), 404)


def _json(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def _number(field: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 2**63:
        raise BadInput(field, f"{text!r} is not a number (decimal, or hexadecimal as 0x...)")
    return value


def _stale(epoch: str | None, routes: list[docs.RouteDoc]) -> Response | None:
    """409 with the current owner where the caller's epoch is not the current one."""
    if epoch is None:
        return None
    held = _number("epoch", epoch)
    if len(routes) != 1:
        raise BadInput("epoch", "an epoch is a region's: name one region, or all partition tags")
    if held == routes[0].epoch:
        return None
    message = f"epoch {held:#x} is not the current one, {routes[0].epoch_hex}: use this route"
    return _json(docs.ErrorDoc(docs.ErrorBody("stale_epoch", message, "epoch", routes[0])), 409)


def _route(r: types_pb2.Route) -> docs.RouteDoc:
    return docs.RouteDoc(
        r.region_id,
        f"{r.region_id:#x}",
        r.table_id,
        r.partition,
        r.node_id,
        r.incarnation,
        r.address,
        r.locality,
        r.epoch,
        f"{r.epoch:#x}",
        types_pb2.Phase.Name(r.phase).lower(),
    )


def _table(t: types_pb2.Table) -> docs.TableDoc:
    columns = [
        docs.ColumnDoc(c.name, c.type, types_pb2.ColumnRole.Name(c.role).lower(), c.since_version) for c in t.columns
    ]
    return docs.TableDoc(
        t.table_id, t.name, t.schema_version, columns, list(t.partition_columns), len(t.region_ids), t.priority
    )


def _cluster(s: admin_pb2.StatusReply) -> docs.ClusterDoc:
    replicas = [
        docs.ReplicaDoc(r.node_id, r.address, r.locality, r.leader, r.reachable, r.applied_revision) for r in s.replicas
    ]
    nodes = [
        docs.NodeDoc(
            n.node_id,
            n.incarnation,
            n.address,
            n.locality,
            n.status,
            n.silent_ms,
            n.regions,
            n.capacity_regions,
            n.unflushed_bytes,
            list(n.lanes),
        )
        for n in s.nodes
    ]
    pauses = [docs.PauseDoc(p.scope, p.reason, p.who, p.expires_wall_ms) for p in s.pauses]
    return docs.ClusterDoc(
        s.cluster_id,
        s.revision,
        s.term,
        s.leader_id,
        s.lease_ms,
        replicas,
        nodes,
        s.tables,
        s.regions,
        dict(s.regions_by_phase),
        pauses,
    )
