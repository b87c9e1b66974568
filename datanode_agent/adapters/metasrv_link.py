"""What the agent asks of metasrv besides leases: registration, orders, reports, release, drain. On the event loop.

Any replica answers any of them; one that fails is left for the next.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
import structlog

from datanode_agent.adapters.metrics import Metrics
from datanode_agent.core.links import ReplicaChooser
from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel, raise_if_cancelled
from groundwork.adapters.rpc_errors import RETRIABLE, leader_hint, typed
from groundwork.core.errors import MetasrvError, Refused, Unknown
from groundwork.core.ports import Clock
from protos.metasrv.v1 import admin_pb2, admin_pb2_grpc, nodes_pb2, nodes_pb2_grpc, types_pb2

log = structlog.get_logger()

T = TypeVar("T")

ATTEMPT_S = 3.0
# A replica says something every second, be it that nothing changed: a stream that is silent for longer is dead.
ORDERS_SILENT_MS_MAX = 3_000.0


class MetasrvLink:
    """The agent's calls to metasrv. `chooser` is the replica of the orders stream; calls choose for themselves."""

    def __init__(
        self, replicas: tuple[str, ...], tls: TlsConfig | None, cluster_id: str, node_id: str, clock: Clock
    ) -> None:
        self.chooser = ReplicaChooser(replicas)
        self._calls_chooser = ReplicaChooser(replicas)
        self._tls = tls
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._clock = clock
        self._channels: dict[str, grpc.aio.Channel] = {}

    def sender(self, incarnation: int) -> types_pb2.Sender:
        """Who speaks, under an incarnation (0: before the registration)."""
        return types_pb2.Sender(cluster_id=self._cluster_id, node_id=self._node_id, incarnation=incarnation)

    def leader_is(self, address: str, term: int) -> bool:
        """A beat's answer named the leader. Whether that moves the orders stream."""
        self._calls_chooser.leader_is(address, term)
        return self.chooser.leader_is(address, term)

    async def register(self, request: nodes_pb2.RegisterRequest) -> nodes_pb2.RegisterReply:
        """Register, however long no replica answers.

        Raises Refused when another live process holds the node id, ForeignCluster, BadInput.
        """
        request.sender.CopyFrom(self.sender(0))
        return await self._ask(
            "register", lambda channel: nodes_pb2_grpc.NodesStub(channel).Register(request, timeout=ATTEMPT_S), None
        )

    async def release(self, incarnation: int, witness: str, deadline_ms: float) -> None:
        """Give the incarnation's lease back. Raises Refused, ForeignCluster, BadInput; Unknown at the deadline."""
        request = nodes_pb2.ReleaseRequest(sender=self.sender(incarnation), witness=witness)
        await self._ask(
            "release",
            lambda channel: nodes_pb2_grpc.NodesStub(channel).Release(request, timeout=ATTEMPT_S),
            deadline_ms,
        )

    async def drain(self, request_id: str, deadline_ms: float) -> admin_pb2.PlanReply:
        """Ask for all regions to be moved away; the next registration undoes it. Raises as release() does."""
        request = admin_pb2.DrainRequest(
            sender=self.sender(0), node_id=self._node_id, who=self._node_id, request_id=request_id
        )
        return await self._ask(
            "drain", lambda channel: admin_pb2_grpc.AdminStub(channel).Drain(request, timeout=ATTEMPT_S), deadline_ms
        )

    async def report(self, incarnation: int, reports: list[nodes_pb2.RegionReport]) -> nodes_pb2.ReportReply:
        """Deliver one batch, however long no replica answers. Raises Refused, ForeignCluster, BadInput."""
        request = nodes_pb2.ReportRequest(sender=self.sender(incarnation), regions=reports)
        return await self._ask(
            "report", lambda channel: nodes_pb2_grpc.NodesStub(channel).Report(request, timeout=ATTEMPT_S), None
        )

    def open_orders(self, incarnation: int) -> "OrdersStream":
        """Open the orders stream at the replica of choice."""
        replica = self.chooser.current
        stub = nodes_pb2_grpc.NodesStub(self._channel(replica))
        call = stub.Orders(nodes_pb2.OrdersRequest(sender=self.sender(incarnation)))
        return OrdersStream(replica, aiter(call), call.cancel)

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _channel(self, replica: str) -> grpc.aio.Channel:
        if replica not in self._channels:
            self._channels[replica] = aio_channel(replica, self._tls)
        return self._channels[replica]

    async def _ask(self, what: str, ask: Callable[[grpc.aio.Channel], Awaitable[T]], deadline_ms: float | None) -> T:
        """Ask one replica after the other. Typed errors at once; Unknown at the deadline, if there is one.

        Each attempt is short: a replica that hangs must not hold up what another would do at once.
        """
        until_ms = None if deadline_ms is None else self._clock.now_ms() + deadline_ms
        chooser = self._calls_chooser
        complained = False
        while True:
            replica = chooser.current
            try:
                reply = await ask(self._channel(replica))
            except grpc.aio.AioRpcError as error:
                raise_if_cancelled()
                reason = typed(error)
                # Without a reason of ours it may be the fault of this one alone: of an older version, of a proxy.
                if error.code() not in RETRIABLE and not isinstance(reason, Unknown):
                    raise reason from error
                wait_ms = chooser.failed(replica)
                hint = leader_hint(error)
                if hint and hint != replica:
                    chooser.hinted(hint)
                why = f"{replica}: {error.details() or error.code().name}"
            else:
                chooser.answered()
                return reply
            if wait_ms and not complained:
                complained = True
                log.warning("no_replica_answers", asked=what, last=why)
            if until_ms is not None and self._clock.now_ms() + wait_ms >= until_ms:
                raise Unknown(f"no metasrv replica took the {what} in time; the last was {why}")
            await self._clock.sleep(wait_ms)


class OrdersStream:
    """One orders stream at one replica, until it breaks or is ended."""

    def __init__(self, replica: str, replies: AsyncIterator[nodes_pb2.OrdersReply], cancel: Callable[[], bool]) -> None:
        self.replica = replica
        self._replies = replies
        self._cancel = cancel

    async def next(self) -> nodes_pb2.OrdersReply | None:
        """The next reply, or None once the stream ended. Raises MetasrvError for what the replica refused."""
        try:
            async with asyncio.timeout(ORDERS_SILENT_MS_MAX / 1000):
                return await anext(self._replies, None)
        except TimeoutError as error:
            raise Unknown(f"{self.replica} said nothing for {ORDERS_SILENT_MS_MAX:.0f} ms") from error
        except grpc.aio.AioRpcError as error:
            raise typed(error) from error

    def end(self) -> None:
        """End it from here: next() then raises or returns None."""
        self._cancel()


class Orders:
    """Keeps one orders stream of one incarnation open, and goes to another replica when it breaks or stalls."""

    def __init__(
        self, link: MetasrvLink, incarnation: int, clock: Clock,
        apply: Callable[[nodes_pb2.OrdersReply], None], superseded: Callable[[str], None], metrics: Metrics,
    ) -> None:  # fmt: skip
        self._link = link
        self._incarnation = incarnation
        self._clock = clock
        self._apply = apply
        self._superseded = superseded
        self._metrics = metrics
        self._stream: OrdersStream | None = None
        self._switching = False

    def switch(self, why: str) -> None:
        """Leave the replica in use for the one of choice now."""
        if self._stream is not None and not self._switching:
            self._switching = True
            log.info("orders_switch", replica=self._stream.replica, why=why)
            self._stream.end()

    async def run(self) -> None:
        """Apply orders until cancelled."""
        while True:
            self._stream = stream = self._link.open_orders(self._incarnation)
            self._switching = False
            self._metrics.orders_streams.inc()
            why = "stream ended"
            try:
                while (reply := await stream.next()) is not None:
                    self._link.chooser.answered()
                    self._apply(reply)
            except MetasrvError as error:
                why = str(error)
                if isinstance(error, Refused) and error.kind == "superseded":
                    self._superseded(stream.replica)
            except asyncio.CancelledError:
                if not self._switching:
                    stream.end()
                    raise
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            raise_if_cancelled()
            if self._switching:
                continue
            wait_ms = self._link.chooser.failed(stream.replica)
            log.info("orders_broke", replica=stream.replica, why=why, next=self._link.chooser.current)
            await self._clock.sleep(wait_ms)
