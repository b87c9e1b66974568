"""The Nodes service: registration, release, orders and reports."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog

from groundwork.core.errors import BadInput, Refused, Unknown
from groundwork.core.ids import Lane, Locality, check_node_id
from groundwork.core.wire import table_to_wire
from metasrv.adapters.batches import Batcher
from metasrv.adapters.feeds import Feed
from metasrv.adapters.forward import Forwarder
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.proposing import Proposer
from metasrv.adapters.reports import REPORTS_MAX, reports_from_wire
from metasrv.adapters.state_feeds import NODE, TRIM, Key, StateFeeds
from metasrv.adapters.to_wire import order_to_wire, trim_to_wire
from metasrv.core import commands
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.orders import Order, TrimOrder, orders_for, orders_of, trim_orders_of
from metasrv.core.records import LANES_MAX
from protos.metasrv.v1 import nodes_pb2
from protos.metasrv.v1.nodes_pb2_grpc import NodesServicer, NodesStub

log = structlog.get_logger()
REPORTS_WAITING_MAX = 200_000
STOPPED_COMMITS_MAX = 8  # in flight
REFUSED_LOGGED_MAX = 10  # of one request
ORDERS_IN_SLICE = 500
REGISTER_TRIES = 3
QUIET_MS = 1_000  # an empty message at least so often, so that an agent can tell a dead stream from a quiet one


class Nodes(NodesServicer):
    """See the module docstring."""

    def __init__(
        self,
        machine: Machine,
        proposer: Proposer,
        forwarder: Forwarder,
        book: LeaseBook,
        feeds: StateFeeds,
        metrics: Metrics,
    ) -> None:
        self._machine = machine
        self._proposer = proposer
        self._forwarder = forwarder
        self._book = book
        self._feeds = feeds
        self._metrics = metrics
        self._reports: Batcher[commands.Report] = Batcher(self._commit_reports, REPORTS_MAX, REPORTS_WAITING_MAX)
        # Writes are refused until these are committed: they do not wait for a commit that is in flight already.
        self._stopped: Batcher[commands.Report] = Batcher(
            self._commit_reports, REPORTS_MAX, REPORTS_WAITING_MAX, STOPPED_COMMITS_MAX
        )

    async def Register(self, request: nodes_pb2.RegisterRequest, context: Any) -> nodes_pb2.RegisterReply:
        """A new incarnation."""
        return await self._forwarder.run(request, context, self._register, lambda c: NodesStub(c).Register)

    async def Release(self, request: nodes_pb2.ReleaseRequest, context: Any) -> nodes_pb2.ReleaseReply:
        """A witnessed death, or a graceful stop."""
        return await self._forwarder.run(request, context, self._release, lambda c: NodesStub(c).Release)

    async def Report(self, request: nodes_pb2.ReportRequest, context: Any) -> nodes_pb2.ReportReply:
        """What the agent did."""
        return await self._forwarder.run(request, context, self._report, lambda c: NodesStub(c).Report)

    async def Orders(self, request: nodes_pb2.OrdersRequest, context: Any) -> AsyncIterator[nodes_pb2.OrdersReply]:
        """All orders, then what changes."""
        node_id, incarnation = request.sender.node_id, request.sender.incarnation
        self._check_incarnation(node_id, incarnation)
        with self._feeds.orders(node_id) as feed, self._metrics.watchers.labels("orders").track_inprogress():
            writer = _OrdersWriter(self._machine, node_id)
            while not self._feeds.closing:
                self._check_incarnation(node_id, incarnation)
                yield await writer.next(feed)
                await feed.wait(QUIET_MS)

    def _check_incarnation(self, node_id: str, incarnation: int) -> None:
        node = self._machine.state.nodes.get(node_id)
        if node is None or node.incarnation < incarnation:
            raise Unknown(
                f"this replica has not applied the registration of {node_id} {incarnation:#x} yet: ask another"
            )
        if node.incarnation > incarnation:
            raise Refused("superseded", f"{node_id} has registered again as {node.incarnation:#x}: register")

    async def _register(self, request: nodes_pb2.RegisterRequest) -> nodes_pb2.RegisterReply:
        node_id = check_node_id(request.sender.node_id)
        Locality.parse(request.locality)
        if not request.address:
            raise BadInput("address", "the address where clients reach this datanode is missing")
        if not 1 <= request.lanes <= LANES_MAX:
            raise BadInput("lanes", f"{request.lanes} is not from 1 to {LANES_MAX}")
        if not self._machine.state.cluster_id:
            raise Unknown("the cluster has not begun yet: the leader waits for the object store")
        for _ in range(REGISTER_TRIES):
            command = self._registration(request, node_id)
            outcome = await self._proposer.propose(command)
            if not outcome.refused:
                break
            held = self._machine.state.nodes.get(node_id)
            if command.replaces == (held.incarnation if held else 0):
                raise Refused("register", outcome.refused)
        else:
            raise Unknown(f"{node_id} is being registered by others at the same time: {outcome.refused}")
        config = self._machine.state.config
        log.info("registered", node_id=node_id, incarnation=outcome.value, address=request.address)
        return nodes_pb2.RegisterReply(
            incarnation=outcome.value, lease_ms=config.lease_ms, beat_ms=config.beat_ms, revision=outcome.revision
        )

    def _registration(self, request: nodes_pb2.RegisterRequest, node_id: str) -> commands.Register:
        state, clock = self._machine.state, self._proposer.clock
        held = state.nodes.get(node_id)
        return commands.Register(
            request_id=request.request_id,
            node_id=node_id,
            folder_id=request.folder_id,
            locality=request.locality,
            address=request.address,
            lanes=request.lanes,
            capacity_regions=request.capacity_regions,
            replaces=held.incarnation if held else 0,
            takeover=request.takeover,
            heard=self._book.may_register(state, node_id, clock.now_ms()),
            wall_ms=clock.wall_ms(),
        )

    async def _release(self, request: nodes_pb2.ReleaseRequest) -> nodes_pb2.ReleaseReply:
        sender = request.sender
        node = self._machine.state.nodes.get(sender.node_id)
        if node is None:
            raise Refused("not_found", f"no datanode {sender.node_id!r} is registered")
        if node.incarnation == sender.incarnation:
            await self._proposer.commit(
                commands.Release(
                    node_id=sender.node_id,
                    incarnation=sender.incarnation,
                    witness=request.witness[:200],
                    wall_ms=self._proposer.clock.wall_ms(),
                )
            )
            log.info("released", node_id=sender.node_id, incarnation=sender.incarnation, witness=request.witness)
        return nodes_pb2.ReleaseReply()

    async def _report(self, request: nodes_pb2.ReportRequest) -> nodes_pb2.ReportReply:
        items, refused = reports_from_wire(request)
        for answer in refused[:REFUSED_LOGGED_MAX]:
            log.warning("report_refused", node_id=request.sender.node_id, kind=answer.kind, why=answer.message)
        for item in items:
            if isinstance(item, commands.Serving):
                for phase, ms in (("seal", item.seal_ms), ("claim", item.claim_ms), ("replay", item.replay_ms)):
                    self._metrics.failover_ms.labels(phase).observe(ms)
        revision = self._machine.state.revision
        stopped = [item for item in items if isinstance(item, commands.Stopped)]
        others = [item for item in items if not isinstance(item, commands.Stopped)]
        for batcher, some in ((self._stopped, stopped), (self._reports, others)):
            for start in range(0, len(some), REPORTS_MAX):
                revision = await batcher.submit(some[start : start + REPORTS_MAX])
        return nodes_pb2.ReportReply(revision=revision, refused=refused)

    async def _commit_reports(self, items: Sequence[commands.Report]) -> int:
        outcome = await self._proposer.commit(
            commands.Reports(items=tuple(items), wall_ms=self._proposer.clock.wall_ms())
        )
        for index, reason in outcome.rejected[:10]:
            log.info("report_rejected", kind=type(items[index]).__name__, node_id=items[index].node_id, reason=reason)
        return outcome.revision


class _OrdersWriter:
    """What one Orders stream has sent so far, and what it sends next."""

    def __init__(self, machine: Machine, node_id: str) -> None:
        self._machine = machine
        self._node_id = node_id
        self._schemas: dict[int, int] = {}  # table id -> schema version sent
        self._trims: dict[Lane, int] = {}

    async def next(self, feed: Feed[Key]) -> nodes_pb2.OrdersReply:
        """A snapshot, or the changes since; with nothing new, an empty message. Encoded in slices, to stall nobody."""
        state = self._machine.state
        keys = feed.take()
        if keys is None:
            orders = orders_of(state, self._node_id)
            self._schemas.clear()
            trims = trim_orders_of(state, self._node_id)
            self._trims.clear()
        else:
            orders = orders_for(state, self._node_id, [k for kind, k in keys if kind == "region"])
            trims = trim_orders_of(state, self._node_id) if TRIM in keys or NODE in keys else []
        widened = [] if keys is None else [k for kind, k in keys if kind == "table" and k in self._schemas]
        reply = nodes_pb2.OrdersReply(
            snapshot=keys is None,
            revision=state.revision,
            trims=[trim_to_wire(t) for t in self._new_trims(trims)],
            tables=self._new_tables(orders, widened),
        )
        for start in range(0, len(orders), ORDERS_IN_SLICE):
            reply.orders.extend(map(order_to_wire, orders[start : start + ORDERS_IN_SLICE]))
            await asyncio.sleep(0)
        return reply

    def _new_trims(self, trims: Sequence[TrimOrder]) -> list[TrimOrder]:
        new = [t for t in trims if self._trims.get(t.lane) != t.below]
        self._trims.update((t.lane, t.below) for t in new)
        return new

    def _new_tables(self, orders: Sequence[Order], widened: Sequence[int]) -> list[Any]:
        found = []
        for table_id in sorted({o.table_id for o in orders} | set(widened)):
            table = self._machine.state.tables.get(table_id)
            if table is not None and self._schemas.get(table_id) != table.schema.version:
                self._schemas[table_id] = table.schema.version
                found.append(table_to_wire(table.info(), table.priority))
        return found
