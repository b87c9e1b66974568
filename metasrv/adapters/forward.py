"""Any replica answers any request: a follower passes changes on to the leader, once."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel
from groundwork.adapters.rpc_errors import typed
from groundwork.core.errors import NotLeader
from metasrv.adapters.guard import FORWARDED, was_forwarded
from metasrv.core.ports import Consensus

Q = TypeVar("Q")
R = TypeVar("R")
DEADLINE_S = 5.0


class Peers:
    """Channels to the other replicas."""

    def __init__(self, node_id: str, addresses: Mapping[str, str], tls: TlsConfig | None) -> None:
        self.node_id = node_id
        self.addresses = addresses
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def others(self) -> list[str]:
        """Node ids of the other replicas."""
        return [node_id for node_id in self.addresses if node_id != self.node_id]

    def channel(self, node_id: str) -> grpc.aio.Channel:
        """The one channel to a replica."""
        if node_id not in self._channels:
            self._channels[node_id] = aio_channel(self.addresses[node_id], self._tls)
        return self._channels[node_id]

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


class Forwarder:
    """Runs a request here when this replica leads, else at the leader."""

    def __init__(self, consensus: Consensus, peers: Peers) -> None:
        self._consensus = consensus
        self._peers = peers

    async def run(
        self,
        request: Q,
        context: Any,
        here: Callable[[Q], Awaitable[R]],
        there: Callable[[grpc.aio.Channel], Any],
    ) -> R:
        """`here` on the leader; `there` picks the same method of a stub. Raises NotLeader where nobody leads.

        Without a context (HTTP) it is a request of this replica itself.
        """
        leadership = self._consensus.leadership()
        if leadership.is_leader:
            return await here(request)
        leader = leadership.leader_id
        if leader is None or leader == self._peers.node_id or leader not in self._peers.addresses:
            raise NotLeader(None)
        if context is not None and was_forwarded(context):
            raise NotLeader(leader)
        left_s = None if context is None else context.time_remaining()
        timeout_s = DEADLINE_S if left_s is None else max(0.001, min(left_s, DEADLINE_S))
        try:
            reply: R = await there(self._peers.channel(leader))(
                request, timeout=timeout_s, metadata=((FORWARDED, self._peers.node_id),)
            )
        except grpc.aio.AioRpcError as error:
            raise typed(error) from error
        return reply
