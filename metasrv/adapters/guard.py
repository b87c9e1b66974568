"""One interceptor before every RPC: foreign clusters are refused, senders are who they say, errors become statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from functools import cache
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import Descriptor

from groundwork.adapters.rpc_errors import describe, trailing
from groundwork.core.errors import BadInput, ForeignCluster, MetasrvError, NotLeader, PermissionDenied
from metasrv.adapters.roles import check_role

log = structlog.get_logger()
FORWARDED = "x-forwarded"
# A foreign agent is answered on its stream, so that it can say why it gets no lease.
_ANSWERS_FOREIGN = "/metasrv.v1.Heartbeat/"
# A tool that does not know the cluster yet may look; whoever names another cluster may not even do that.
_READS = frozenset(
    f"/metasrv.v1.{method}"
    for method in (
        "Admin/Status",
        "Admin/Procedures",
        "Admin/Explain",
        "Admin/Events",
        "Catalog/ListTables",
        "Routes/Get",
    )
)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@cache
def _names(message: Descriptor) -> frozenset[str]:
    return frozenset(message.fields_by_name)


def claimed(request: Any) -> tuple[str | None, str]:
    """Cluster id and node id that a request names; the cluster id is None for a message that carries none."""
    names = _names(request.DESCRIPTOR)
    if "sender" in names:
        return request.sender.cluster_id, request.sender.node_id
    if "cluster_id" in names:
        named = "replica_id" if "replica_id" in names else "from_id" if "from_id" in names else ""
        return request.cluster_id, getattr(request, named) if named else ""
    return None, ""


class Guard(grpc.aio.ServerInterceptor):
    """See the module docstring. `peers` are the replicas' addresses by node id, `nodes` gives the registered nodes."""

    def __init__(
        self,
        cluster_id: str,
        peers: Mapping[str, str],
        refused: Callable[[str], None],
        nodes: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._cluster_id = cluster_id
        self._peers = peers
        self._nodes = nodes
        self._refused = refused

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]], handler_call_details: Any
    ) -> Handler | None:
        """Wrap the handler of one RPC by its kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = str(handler_call_details.method)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._duplex(method, handler.stream_stream), handler.request_deserializer, handler.response_serializer
            )
        raise TypeError(f"{method}: no request-streaming RPC is expected here")

    def _check(self, method: str, request: Any, context: Any) -> None:
        cluster_id, node_id = claimed(request)
        if cluster_id is None:
            return
        anonymous = not cluster_id and not node_id and method in _READS
        if cluster_id != self._cluster_id and not anonymous and not method.startswith(_ANSWERS_FOREIGN):
            self._refused("foreign_cluster")
            raise ForeignCluster(f"this is cluster {self._cluster_id}, the request names {cluster_id or 'none'}")
        self._check_certificate(method, node_id, request, context)

    def _check_certificate(self, method: str, node_id: str, request: Any, context: Any) -> None:
        names = certificate_names(context.auth_context())
        if names is None:
            return
        try:
            check_role(method, names, node_id, request, self._peers, self._nodes())
        except (BadInput, PermissionDenied):
            self._refused("certificate")
            raise

    async def _abort(self, method: str, error: MetasrvError, context: Any) -> None:
        status, message, kind, _ = describe(error)
        leader = self._peers.get(error.leader_id or "", "") if isinstance(error, NotLeader) else ""
        passing = status is grpc.StatusCode.UNAVAILABLE  # the caller tries again: not worth a line each time
        (log.debug if passing else log.info)("request_refused", method=method, kind=kind, reason=message)
        await context.abort(status, message, trailing(error, leader))

    def _unary(self, method: str, handle: Any) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                self._check(method, request, context)
                return await handle(request, context)
            except MetasrvError as error:
                await self._abort(method, error, context)

        return guarded

    def _streaming(self, method: str, handle: Any) -> Any:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self._check(method, request, context)
                async for reply in handle(request, context):
                    yield reply
            except MetasrvError as error:
                await self._abort(method, error, context)

        return guarded

    def _duplex(self, method: str, handle: Any) -> Any:
        async def checked(requests: Any, context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                self._check(method, request, context)
                yield request

        async def guarded(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for reply in handle(checked(requests, context), context):
                    yield reply
            except MetasrvError as error:
                await self._abort(method, error, context)

        return guarded


def certificate_names(auth_context: Mapping[str, Any]) -> set[str] | None:
    """The names on the other side's certificate; None where the connection is plain text."""
    if b"".join(auth_context.get("transport_security_type", [])) != b"ssl":
        return None
    found = [*auth_context.get("x509_subject_alternative_name", []), *auth_context.get("x509_common_name", [])]
    return {name.decode(errors="replace") for name in found}


def was_forwarded(context: Any) -> bool:
    """Whether another replica passed this request on: it must not be passed on again."""
    return any(key == FORWARDED for key, _ in context.invocation_metadata() or ())
