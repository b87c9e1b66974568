"""Unary calls to any replica of metasrv: tried in turn, again after passing faults, inside the caller's deadline.

Changes carry a request id that stays the same over all tries, so that metasrv applies them once.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel
from groundwork.adapters.rpc_errors import RETRIABLE, leader_hint, typed
from groundwork.core.errors import BadInput, Unknown
from groundwork.core.ports import Clock
from protos.metasrv.v1 import types_pb2

R = TypeVar("R")
ATTEMPT_MS_MAX = 6_000
RETRY_MS_MIN = 25
RETRY_MS_MAX = 400

# Which method of which stub, given a channel: lambda channel: CatalogStub(channel).CreateTable
Method = Callable[[grpc.aio.Channel], Callable[..., Any]]


class ReplicaCalls:
    """Channels to every replica, opened when first used, and the replica that answered last."""

    def __init__(
        self,
        addresses: Sequence[str],
        cluster_id: str,
        tls: TlsConfig | None = None,
        clock: Clock | None = None,
        node_id: str = "",
    ) -> None:
        if not addresses:
            raise BadInput("metasrv", "at least one address of a metasrv replica is needed")
        self.addresses = list(dict.fromkeys(addresses))
        self.clock: Clock = clock or SystemClock()
        self.sender = types_pb2.Sender(cluster_id=cluster_id, node_id=node_id)
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._preferred = 0

    def channel(self, address: str) -> grpc.aio.Channel:
        """The one channel to that replica."""
        if address not in self._channels:
            self._channels[address] = aio_channel(address, self._tls)
        return self._channels[address]

    async def call(self, method: Method, request: Any, answer: type[R], deadline_ms: float) -> R:
        """Call until a replica answers. Raises BadInput, Refused, ForeignCluster; Unknown at the deadline."""
        until = self.clock.now_ms() + deadline_ms
        pause_ms = float(RETRY_MS_MIN)
        failed = 0
        while True:
            left_ms = until - self.clock.now_ms()
            try:
                timeout_s = max(0.001, min(left_ms, ATTEMPT_MS_MAX) / 1000)
                reply = await method(self.channel(self.addresses[self._preferred]))(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIABLE:
                    raise typed(error) from error
                self._prefer_another(leader_hint(error))
                failed += 1
                if failed % len(self.addresses) == 0:
                    left_ms = until - self.clock.now_ms()
                    if left_ms <= pause_ms:
                        raise Unknown(
                            f"no metasrv replica of {', '.join(self.addresses)} answered within {deadline_ms:.0f} ms: "
                            f"{error.details() or error.code().name}; whether it was done is not known, "
                            "ask again under the same request id"
                        ) from error
                    await self.clock.sleep(pause_ms)
                    pause_ms = min(2 * pause_ms, RETRY_MS_MAX)
            else:
                if not isinstance(reply, answer):
                    raise TypeError(f"{type(reply).__name__} is not the answer expected, {answer.__name__}")
                return reply

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def prefer_next(self) -> None:
        """Ask another replica next time: the one that answered last may be behind."""
        self._preferred = (self._preferred + 1) % len(self.addresses)

    def _prefer_another(self, leader: str) -> None:
        if leader in self.addresses and self.addresses[self._preferred] != leader:
            self._preferred = self.addresses.index(leader)
        else:
            self.prefer_next()
