"""Typed errors over gRPC: a status code for everyone, and our own kind, field and leader in trailing metadata."""

import grpc
import grpc.aio

from groundwork.core.errors import (
    BadInput,
    ForeignCluster,
    MetasrvError,
    NotFound,
    NotLeader,
    PermissionDenied,
    Refused,
    Unknown,
)

KIND = "x-error-kind"
FIELD = "x-error-field"
LEADER = "x-leader-address"

# Refused kinds whose status is better known by another name; the rest are FAILED_PRECONDITION.
_REFUSED_STATUS = {
    "not_found": grpc.StatusCode.NOT_FOUND,
    "exists": grpc.StatusCode.ALREADY_EXISTS,
    "permission_denied": grpc.StatusCode.PERMISSION_DENIED,
}
RETRIABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


def describe(error: MetasrvError) -> tuple[grpc.StatusCode, str, str, str]:
    """Status, message, kind and field of a typed error."""
    if isinstance(error, BadInput):
        prefix = f"{error.field}: "
        return grpc.StatusCode.INVALID_ARGUMENT, str(error).removeprefix(prefix), "bad_input", error.field
    if isinstance(error, Refused):
        status = _REFUSED_STATUS.get(error.kind, grpc.StatusCode.FAILED_PRECONDITION)
        return status, str(error), error.kind, ""
    if isinstance(error, ForeignCluster):
        return grpc.StatusCode.FAILED_PRECONDITION, str(error), "foreign_cluster", ""
    if isinstance(error, NotFound):
        return grpc.StatusCode.NOT_FOUND, str(error), "not_found", ""
    kind = "not_leader" if isinstance(error, NotLeader) else "unknown" if isinstance(error, Unknown) else "unavailable"
    return grpc.StatusCode.UNAVAILABLE, str(error), kind, ""


def trailing(error: MetasrvError, leader_address: str = "") -> tuple[tuple[str, str], ...]:
    """Trailing metadata that typed() understands."""
    _, _, kind, field = describe(error)
    pairs = ((KIND, kind), (FIELD, _header(field)), (LEADER, leader_address))
    return tuple((key, value) for key, value in pairs if value)


def _header(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _metadata(error: grpc.aio.AioRpcError) -> dict[str, str]:
    found = error.trailing_metadata()
    return {str(key): value for key, value in found if isinstance(value, str)} if found is not None else {}


def leader_hint(error: grpc.aio.AioRpcError) -> str:
    """The address of the leader that the refusing replica named, or an empty string."""
    return _metadata(error).get(LEADER, "")


def typed(error: grpc.aio.AioRpcError) -> MetasrvError:
    """The typed error of a failed call. What the other side did not explain is Unknown: it may have been done."""
    metadata = _metadata(error)
    kind = metadata.get(KIND, "")
    message = error.details() or error.code().name
    if kind == "bad_input":
        return BadInput(metadata.get(FIELD, "request"), message)
    if kind == "foreign_cluster":
        return ForeignCluster(message)
    if kind == "permission_denied":
        return PermissionDenied(message)
    if kind and error.code() not in RETRIABLE:
        return Refused(kind, message)
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        return BadInput("request", message)
    return Unknown(message)
