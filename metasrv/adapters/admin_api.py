"""The Admin service: plans first, then one command. Followers forward changes to the leader."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc.aio
import structlog

from groundwork.core.errors import BadInput, NotLeader, Refused
from groundwork.core.ids import Locality, region_text
from metasrv.adapters.forward import Forwarder, Peers
from metasrv.adapters.guard import was_forwarded
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.proposing import Proposer
from metasrv.adapters.state_feeds import StateFeeds
from metasrv.adapters.status import StatusFace
from metasrv.adapters.to_wire import event_to_wire, plan_to_wire, procedure_to_wire
from metasrv.core import commands, planner, procedures
from metasrv.core.explain import explain_node, explain_region
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from metasrv.core.planner import Plan
from metasrv.core.state import State
from protos.metasrv.v1 import admin_pb2
from protos.metasrv.v1.admin_pb2_grpc import AdminServicer, AdminStub

log = structlog.get_logger()
PAUSE_MS_MAX = 7 * 24 * 3_600_000
WAIT_MS = 1_000
NAMES_SHOWN_MAX = 10
Stubbed = Callable[[grpc.aio.Channel], Any]  # picks the same method of a stub


class Admin(AdminServicer):
    """See the module docstring."""

    def __init__(
        self,
        *,
        machine: Machine,
        proposer: Proposer,
        forwarder: Forwarder,
        book: LeaseBook,
        feeds: StateFeeds,
        status: StatusFace,
        peers: Peers,
        metrics: Metrics,
    ) -> None:
        self._machine = machine
        self._proposer = proposer
        self._forwarder = forwarder
        self._book = book
        self._feeds = feeds
        self._status = status
        self._peers = peers
        self._metrics = metrics

    async def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusReply:
        """The leader's view; a replica that is asked by another one answers for itself."""
        if was_forwarded(context) and request.sender.node_id in self._peers.others:
            return self._status.local()
        return await self._status.of_cluster(request, context)

    async def Migrate(self, request: admin_pb2.MigrateRequest, context: Any) -> admin_pb2.PlanReply:
        """Move regions."""
        return await self._once(request, context, self._migrate, lambda c: AdminStub(c).Migrate)

    async def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> admin_pb2.PlanReply:
        """Move all regions off a node, or stop doing so."""
        return await self._once(request, context, self._drain, lambda c: AdminStub(c).Drain)

    async def Pause(self, request: admin_pb2.PauseRequest, context: Any) -> admin_pb2.PlanReply:
        """Maintenance."""
        return await self._once(request, context, self._pause, lambda c: AdminStub(c).Pause)

    async def Resume(self, request: admin_pb2.ResumeRequest, context: Any) -> admin_pb2.PlanReply:
        """The end of maintenance."""
        return await self._once(request, context, self._resume, lambda c: AdminStub(c).Resume)

    async def Cancel(self, request: admin_pb2.CancelRequest, context: Any) -> admin_pb2.PlanReply:
        """Cancel a migration or a drain."""
        return await self._once(request, context, self._cancel, lambda c: AdminStub(c).Cancel)

    async def TransferLeader(self, request: admin_pb2.TransferLeaderRequest, context: Any) -> admin_pb2.PlanReply:
        """Hand leadership to another replica."""
        return await self._forwarder.run(request, context, self._transfer, lambda c: AdminStub(c).TransferLeader)

    async def AcceptLoss(self, request: admin_pb2.AcceptLossRequest, context: Any) -> admin_pb2.PlanReply:
        """Let a region with damaged entries serve without them."""
        return await self._once(request, context, self._accept_loss, lambda c: AdminStub(c).AcceptLoss)

    async def Procedures(self, request: admin_pb2.ProceduresRequest, context: Any) -> admin_pb2.ProceduresReply:
        """Those in flight, and on request those that ended."""
        state = self._machine.state
        views = procedures.running(state) + (procedures.ended(state) if request.all else [])
        return admin_pb2.ProceduresReply(procedures=[procedure_to_wire(v) for v in views])

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Any) -> admin_pb2.ExplainReply:
        """Sentences; with the leader's view of the node where there is a leader in reach (P6)."""
        if bool(request.node_id) == bool(request.region_id):
            raise BadInput("node_id", "name either a node_id or a region_id")
        try:
            return await self._forwarder.run(request, context, self._explain, lambda c: AdminStub(c).Explain)
        except NotLeader:
            return await self._explain(request)

    async def Events(self, request: admin_pb2.EventsRequest, context: Any) -> AsyncIterator[admin_pb2.Event]:
        """The audit trail after from_revision; with `follow` as it grows."""
        async for event in self.events(request.from_revision, request.follow):
            yield event

    async def events(self, from_revision: int, follow: bool) -> AsyncIterator[admin_pb2.Event]:
        """As Events, for HTTP too."""
        with self._feeds.audit.reader() as feed, self._metrics.watchers.labels("events").track_inprogress():
            while not self._feeds.closing:
                feed.take()
                for event in self._machine.events(from_revision + 1):
                    from_revision = max(from_revision, event.revision)
                    yield event_to_wire(event)
                if not follow:
                    return
                await feed.wait(WAIT_MS)

    async def _once(
        self, request: Any, context: Any, here: Callable[[Any], Awaitable[admin_pb2.PlanReply]], there: Stubbed
    ) -> admin_pb2.PlanReply:
        """A change, at the leader; a repeat of one that was committed gets its first answer."""

        async def once(asked: Any) -> admin_pb2.PlanReply:
            return self._answered(asked.request_id) or await here(asked)

        return await self._forwarder.run(request, context, once, there)

    def _answered(self, request_id: str) -> admin_pb2.PlanReply | None:
        """The answer to a repeat of a change that was committed: what it planned may not be there any more."""
        held = self._machine.state.answers.get(request_id) if request_id else None
        if held is None:
            return None
        return admin_pb2.PlanReply(committed=True, procedure_id=held.value, summary="Committed already.")

    async def _commit(self, plan: Plan, dry_run: bool) -> admin_pb2.PlanReply:
        if dry_run or plan.command is None:
            return plan_to_wire(plan, committed=False)
        outcome = await self._proposer.commit(plan.command)
        log.info("plan_committed", kind=outcome.kind, sentence=plan.sentence, revision=outcome.revision)
        return plan_to_wire(plan, committed=True, procedure_id=outcome.value)

    async def _migrate(self, request: admin_pb2.MigrateRequest) -> admin_pb2.PlanReply:
        if not request.region_ids:
            raise BadInput("region_ids", "name at least one region")
        clock, state = self._proposer.clock, self._machine.state
        plan = planner.plan_migration(
            state,
            self._book.inventory(state, clock.now_ms()),
            list(request.region_ids),
            request.to_node,
            who=request.who,
            why=f"asked for by {request.who or 'an operator'}",
            wall_ms=clock.wall_ms(),
            request_id=request.request_id,
        )
        return await self._commit(plan, request.dry_run)

    async def _drain(self, request: admin_pb2.DrainRequest) -> admin_pb2.PlanReply:
        clock, state = self._proposer.clock, self._machine.state
        if request.node_id not in state.nodes:
            raise Refused("not_found", f"no datanode {request.node_id!r} is registered")
        if request.undo:
            command = commands.Undrain(
                request_id=request.request_id, wall_ms=clock.wall_ms(), node_id=request.node_id, who=request.who
            )
            return await self._commit(Plan(f"{request.node_id} may be given regions again.", command), request.dry_run)
        plan = planner.plan_drain(
            state,
            self._book.inventory(state, clock.now_ms()),
            request.node_id,
            who=request.who,
            wall_ms=clock.wall_ms(),
            request_id=request.request_id,
            by_node=request.sender.node_id == request.node_id,
        )
        return await self._commit(plan, request.dry_run)

    async def _pause(self, request: admin_pb2.PauseRequest) -> admin_pb2.PlanReply:
        _check_scope(request.scope)
        _check_known(self._machine.state, request.scope)
        if not 0 < request.for_ms <= PAUSE_MS_MAX:
            raise BadInput("for_ms", f"{request.for_ms} is not from 1 to {PAUSE_MS_MAX} (a week): a pause must end")
        wall_ms = self._proposer.clock.wall_ms()
        command = commands.Pause(
            request_id=request.request_id,
            wall_ms=wall_ms,
            scope=request.scope,
            reason=request.reason,
            who=request.who,
            expires_wall_ms=wall_ms + request.for_ms,
        )
        sentence = f"No failover and no voluntary move away within {request.scope} for {request.for_ms / 1000:.0f} s."
        return await self._commit(Plan(sentence, command), request.dry_run)

    async def _resume(self, request: admin_pb2.ResumeRequest) -> admin_pb2.PlanReply:
        _check_scope(request.scope)
        if request.scope not in self._machine.state.pauses:
            raise Refused("not_found", f"{request.scope} is not paused")
        command = commands.Resume(
            request_id=request.request_id,
            wall_ms=self._proposer.clock.wall_ms(),
            scope=request.scope,
            who=request.who,
        )
        return await self._commit(Plan(f"The pause of {request.scope} ends.", command), request.dry_run)

    async def _cancel(self, request: admin_pb2.CancelRequest) -> admin_pb2.PlanReply:
        state, wall_ms = self._machine.state, self._proposer.clock.wall_ms()
        attempt = request.procedure_id
        moving = sorted(r for r, m in state.migrations.items() if m.attempt == attempt)
        if moving:
            command = commands.CancelMigration(
                request_id=request.request_id, wall_ms=wall_ms, attempt=attempt, who=request.who, why="asked for"
            )
            return await self._commit(Plan(f"{len(moving)} regions stay with their owners.", command), request.dry_run)
        for node_id, drain in state.drains.items():
            if drain.procedure_id == attempt:
                undrain = commands.Undrain(
                    request_id=request.request_id, wall_ms=wall_ms, node_id=node_id, who=request.who
                )
                return await self._commit(Plan(f"The drain of {node_id} ends.", undrain), request.dry_run)
        raise Refused("not_found", f"no procedure {attempt:#x} is in flight that could be cancelled")

    async def _transfer(self, request: admin_pb2.TransferLeaderRequest) -> admin_pb2.PlanReply:
        to = request.to or await self._best_follower()
        if to not in self._peers.addresses:
            raise BadInput("to", f"{to!r} is not a replica; replicas: {', '.join(sorted(self._peers.addresses))}")
        if to == self._peers.node_id:
            return admin_pb2.PlanReply(committed=False, summary=f"{to} leads already: there is nothing to do.")
        sentence = f"Leadership goes from {self._peers.node_id} to {to}."
        if not request.dry_run:
            await self._proposer.consensus.transfer(to)
            log.info("leadership_transferred", to=to, who=request.who)
        return admin_pb2.PlanReply(committed=not request.dry_run, summary=sentence)

    async def _accept_loss(self, request: admin_pb2.AcceptLossRequest) -> admin_pb2.PlanReply:
        command = commands.AcceptLoss(
            request_id=request.request_id,
            wall_ms=self._proposer.clock.wall_ms(),
            region_id=request.region_id,
            who=request.who,
        )
        return await self._commit(planner.plan_accept_loss(self._machine.state, command), request.dry_run)

    async def _best_follower(self) -> str:
        """The follower in reach that has applied most."""
        replicas = await self._status.replicas()
        found = [r for r in replicas if r.reachable and r.node_id != self._peers.node_id]
        if not found:
            raise Refused("no_replica", "no other replica is in reach: there is nobody to lead")
        return max(found, key=lambda r: r.applied_revision).node_id

    async def _explain(self, request: admin_pb2.ExplainRequest) -> admin_pb2.ExplainReply:
        state = self._machine.state
        if request.region_id:
            if request.region_id not in state.regions:
                raise Refused("not_found", f"there is no region {region_text(request.region_id)}")
            return admin_pb2.ExplainReply(sentences=explain_region(state, request.region_id))
        if request.node_id not in state.nodes:
            raise Refused(
                "not_found",
                f"no datanode {request.node_id!r} is registered (registered: {_some(state.nodes)}); "
                "a region is named TABLE_ID.PARTITION",
            )
        leads = self._proposer.consensus.leadership().is_leader
        views = self._book.inventory(state, self._proposer.clock.now_ms()) if leads else {}
        return admin_pb2.ExplainReply(sentences=explain_node(state, request.node_id, views.get(request.node_id)))


def _check_scope(scope: str) -> None:
    kind, slash, name = scope.partition("/")
    if scope != "cluster" and not (kind in ("site", "node", "table") and slash and name):
        raise BadInput("scope", f"{scope!r} is not one of cluster, site/NAME, node/NAME, table/NAME")


def _check_known(state: State, scope: str) -> None:
    """Whoever mistypes a name must not believe that it is paused."""
    kind, _, name = scope.partition("/")
    known: set[str] = {name}
    if kind == "node":
        known = set(state.nodes)
    elif kind == "site":
        known = {Locality.parse(node.locality).site for node in state.nodes.values()}
    elif kind == "table":
        known = {table.name for table in state.tables.values()}
    if name not in known:
        raise BadInput("scope", f"there is no {kind} {name!r}; there is {_some(known)}")


def _some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    found = sorted(names)
    more = f" and {len(found) - NAMES_SHOWN_MAX} more" if len(found) > NAMES_SHOWN_MAX else ""
    return (", ".join(found[:NAMES_SHOWN_MAX]) or "none") + more
