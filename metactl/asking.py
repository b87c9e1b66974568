"""Asking metasrv: synchronous calls to any replica, again after passing faults, inside a deadline.

A request that changes something carries a request id that stays the same over all tries: it is applied once.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import sync_channel
from groundwork.adapters.rpc_errors import RETRIABLE, leader_hint, typed
from groundwork.core.errors import BadInput, MetasrvError, Unknown
from protos.metasrv.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2_grpc, routes_pb2, routes_pb2_grpc, types_pb2

R = TypeVar("R")
DEADLINE_S = 10.0
ATTEMPT_S_FIRST = 1.0  # a replica that hangs holds a command no longer, while there are others
ATTEMPT_S_MAX = 5.0
RETRY_PAUSE_S = 0.1


class Unreachable(MetasrvError):
    """No replica answered within the deadline. Whether a change was made is not known."""


class Replica:
    """The services of one replica."""

    def __init__(self, address: str, tls: TlsConfig | None) -> None:
        self.address = address
        self.channel = sync_channel(address, tls)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)
        self.catalog = catalog_pb2_grpc.CatalogStub(self.channel)
        self.routes = routes_pb2_grpc.RoutesStub(self.channel)


class Metasrv:
    """All replicas, the one that answered last first. Thread-safe: gRPC channels are."""

    def __init__(self, addresses: Sequence[str], cluster_id: str = "", tls: TlsConfig | None = None,
                 deadline_s: float = DEADLINE_S) -> None:  # fmt: skip
        if not addresses:
            raise BadInput("--metasrv", "at least one address of a metasrv replica is needed")
        self.replicas = [Replica(address, tls) for address in dict.fromkeys(addresses)]
        self.sender = types_pb2.Sender(cluster_id=cluster_id)
        self._deadline_s = deadline_s

    def close(self) -> None:
        """Close all channels."""
        for replica in self.replicas:
            replica.channel.close()

    def ask(self, method: Callable[[Replica], Callable[..., R]], request: Any, deadline_s: float | None = None) -> R:
        """The first answer of any replica. Raises BadInput or Refused as metasrv does, Unreachable at the deadline."""
        deadline_s = deadline_s or self._deadline_s
        give_up = time.monotonic() + deadline_s
        candidates = list(self.replicas)
        tried = 0
        while True:
            replica = candidates[tried % len(candidates)]
            timeout_s = max(0.05, min(_patience_s(tried, len(candidates)), give_up - time.monotonic()))
            try:
                answer = method(replica)(request, timeout=timeout_s)
            except grpc.RpcError as error:
                # A synchronous failure answers the same questions as an asynchronous one.
                failure = cast(grpc.aio.AioRpcError, error)
                if failure.code() not in RETRIABLE:
                    raise typed(failure) from error
                if isinstance(typed(failure), BadInput):
                    raise typed(failure) from error
                tried += 1
                if time.monotonic() + RETRY_PAUSE_S > give_up:
                    raise self._unreachable(failure, deadline_s) from error
                self._prefer(leader_hint(failure), candidates, tried)
                if tried % len(candidates) == 0:
                    time.sleep(RETRY_PAUSE_S)
            else:
                self.replicas.sort(key=lambda other: other is not replica)
                return answer

    def _unreachable(self, failure: grpc.aio.AioRpcError, deadline_s: float) -> MetasrvError:
        addresses = ", ".join(sorted(r.address for r in self.replicas))
        reason = typed(failure)
        known = f": {reason}" if isinstance(reason, Unknown) else f": {failure.details()}"
        closed = any(word in known for word in ("Socket closed", "handshake", "SSL"))
        hint = (
            "; is it under TLS? name --tls-certificate, --tls-key and --tls-authority of its cluster" if closed else ""
        )
        return Unreachable(f"no metasrv replica of {addresses} answered within {deadline_s:g} s{known}{hint}")

    def _prefer(self, leader: str, candidates: list[Replica], tried: int) -> None:
        for index, replica in enumerate(candidates):
            if replica.address == leader and candidates[tried % len(candidates)] is not replica:
                turn = tried % len(candidates)
                candidates[turn], candidates[index] = candidates[index], candidates[turn]
                return

    def status(self, deadline_s: float | None = None) -> admin_pb2.StatusReply:
        """The whole cluster at a glance."""
        return self.ask(lambda r: r.admin.Status, admin_pb2.StatusRequest(sender=self.sender), deadline_s)

    def routes(self, table: str = "", region_ids: Sequence[int] = ()) -> routes_pb2.RoutesReply:
        """Where the regions of a table, or these regions, are."""
        request = routes_pb2.RoutesRequest(sender=self.sender, table=table, region_ids=region_ids)
        return self.ask(lambda r: r.routes.Get, request)

    def events(self, from_revision: int = 0, follow: bool = False) -> Iterator[admin_pb2.Event]:
        """What happened since a revision; with `follow` for ever, from another replica when one goes away."""
        last = from_revision
        while True:
            for replica in list(self.replicas):
                request = admin_pb2.EventsRequest(sender=self.sender, from_revision=last, follow=follow)
                try:
                    for event in replica.admin.Events(request, timeout=None if follow else self._deadline_s):
                        last = max(last, event.revision)
                        yield event
                    if not follow:
                        return
                except grpc.RpcError as error:
                    failure = cast(grpc.aio.AioRpcError, error)
                    if failure.code() not in RETRIABLE:
                        raise typed(failure) from error
            if not follow:
                raise Unreachable("no metasrv replica answered")
            time.sleep(RETRY_PAUSE_S)


def _patience_s(tried: int, replicas: int) -> float:
    """For one attempt: more in every round, since what is slow for all is no fault of one."""
    return ATTEMPT_S_MAX if replicas == 1 else min(ATTEMPT_S_MAX, ATTEMPT_S_FIRST * 2.0 ** (tried // replicas))


@contextlib.contextmanager
def metasrv(addresses: Sequence[str], cluster_id: str = "", tls: TlsConfig | None = None,
            deadline_s: float = DEADLINE_S) -> Iterator[Metasrv]:  # fmt: skip
    """A Metasrv whose channels are closed afterwards."""
    client = Metasrv(addresses, cluster_id, tls, deadline_s)
    try:
        yield client
    finally:
        client.close()
