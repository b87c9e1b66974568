"""Typed callers for metasrv's Admin service: what `metactl` and drills use.

Every call tries the replicas in turn inside its deadline. Raises BadInput, Refused, ForeignCluster; Unknown at the
deadline: then ask again under the same request id, which is applied once.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from groundwork.adapters.replica_calls import ReplicaCalls
from groundwork.adapters.rpc import raise_if_cancelled
from groundwork.adapters.rpc_errors import RETRIABLE, typed
from protos.metasrv.v1 import admin_pb2, catalog_pb2, catalog_pb2_grpc
from protos.metasrv.v1.admin_pb2_grpc import AdminStub

DEADLINE_MS = 10_000


class AdminClient:
    """See the module docstring. `who` goes into the audit trail with every change."""

    def __init__(self, calls: ReplicaCalls, who: str = "") -> None:
        self.calls = calls
        self.who = who

    async def status(self, deadline_ms: float = DEADLINE_MS) -> admin_pb2.StatusReply:
        """Replicas, nodes, counts, pauses."""
        request = admin_pb2.StatusRequest(sender=self.calls.sender)
        return await self.calls.call(lambda c: AdminStub(c).Status, request, admin_pb2.StatusReply, deadline_ms)

    async def tables(self, deadline_ms: float = DEADLINE_MS) -> catalog_pb2.ListTablesReply:
        """All tables."""
        request = catalog_pb2.ListTablesRequest(sender=self.calls.sender)
        return await self.calls.call(
            lambda c: catalog_pb2_grpc.CatalogStub(c).ListTables, request, catalog_pb2.ListTablesReply, deadline_ms
        )

    async def migrate(
        self,
        region_ids: Sequence[int],
        to_node: str = "",
        *,
        dry_run: bool = False,
        request_id: str = "",
        deadline_ms: float = DEADLINE_MS,
    ) -> admin_pb2.PlanReply:
        """Move regions; without `to_node` the planner chooses."""
        request = admin_pb2.MigrateRequest(region_ids=region_ids, to_node=to_node, dry_run=dry_run)
        return await self._change(lambda c: AdminStub(c).Migrate, request, request_id, deadline_ms)

    async def drain(
        self,
        node_id: str,
        *,
        undo: bool = False,
        dry_run: bool = False,
        request_id: str = "",
        deadline_ms: float = DEADLINE_MS,
    ) -> admin_pb2.PlanReply:
        """Move all regions off a node and place none there, or end that (`undo`)."""
        request = admin_pb2.DrainRequest(node_id=node_id, undo=undo, dry_run=dry_run)
        return await self._change(lambda c: AdminStub(c).Drain, request, request_id, deadline_ms)

    async def pause(
        self,
        scope: str,
        for_ms: int,
        reason: str,
        *,
        dry_run: bool = False,
        request_id: str = "",
        deadline_ms: float = DEADLINE_MS,
    ) -> admin_pb2.PlanReply:
        """Take no decisions about a scope (cluster, site/NAME, node/NAME, table/NAME) for a while."""
        request = admin_pb2.PauseRequest(scope=scope, for_ms=for_ms, reason=reason, dry_run=dry_run)
        return await self._change(lambda c: AdminStub(c).Pause, request, request_id, deadline_ms)

    async def resume(
        self, scope: str, *, dry_run: bool = False, request_id: str = "", deadline_ms: float = DEADLINE_MS
    ) -> admin_pb2.PlanReply:
        """End a pause."""
        request = admin_pb2.ResumeRequest(scope=scope, dry_run=dry_run)
        return await self._change(lambda c: AdminStub(c).Resume, request, request_id, deadline_ms)

    async def cancel(
        self, procedure_id: int, *, dry_run: bool = False, request_id: str = "", deadline_ms: float = DEADLINE_MS
    ) -> admin_pb2.PlanReply:
        """Cancel a procedure that has not come to its point of no return."""
        request = admin_pb2.CancelRequest(procedure_id=procedure_id, dry_run=dry_run)
        return await self._change(lambda c: AdminStub(c).Cancel, request, request_id, deadline_ms)

    async def procedures(
        self, *, ended_too: bool = False, deadline_ms: float = DEADLINE_MS
    ) -> Sequence[admin_pb2.Procedure]:
        """Procedures that run, with `ended_too` also those that the audit trail still holds."""
        request = admin_pb2.ProceduresRequest(sender=self.calls.sender, all=ended_too)
        reply = await self.calls.call(
            lambda c: AdminStub(c).Procedures, request, admin_pb2.ProceduresReply, deadline_ms
        )
        return reply.procedures

    async def explain(
        self, *, node_id: str = "", region_id: int = 0, deadline_ms: float = DEADLINE_MS
    ) -> Sequence[str]:
        """Why a node or region is where it is, in sentences with figures (P6)."""
        request = admin_pb2.ExplainRequest(sender=self.calls.sender, node_id=node_id, region_id=region_id)
        reply = await self.calls.call(lambda c: AdminStub(c).Explain, request, admin_pb2.ExplainReply, deadline_ms)
        return reply.sentences

    async def transfer_leader(
        self, to: str = "", *, dry_run: bool = False, deadline_ms: float = DEADLINE_MS
    ) -> admin_pb2.PlanReply:
        """Hand leadership to a replica."""
        request = admin_pb2.TransferLeaderRequest(sender=self.calls.sender, to=to, dry_run=dry_run, who=self.who)
        return await self.calls.call(
            lambda c: AdminStub(c).TransferLeader, request, admin_pb2.PlanReply, deadline_ms, hedged=False
        )

    async def accept_loss(
        self, region_id: int, *, dry_run: bool = False, request_id: str = "", deadline_ms: float = DEADLINE_MS
    ) -> admin_pb2.PlanReply:
        """Let a region that is read-only for damaged entries serve without them, for good."""
        request = admin_pb2.AcceptLossRequest(region_id=region_id, dry_run=dry_run)
        return await self._change(lambda c: AdminStub(c).AcceptLoss, request, request_id, deadline_ms)

    async def _change(
        self, method: Callable[[grpc.aio.Channel], Any], request: Any, request_id: str, deadline_ms: float
    ) -> admin_pb2.PlanReply:
        """Say who asks, and under which request id, so that a repeat is applied once."""
        request.sender.CopyFrom(self.calls.sender)
        request.who, request.request_id = self.who, request_id or uuid.uuid4().hex
        return await self.calls.call(method, request, admin_pb2.PlanReply, deadline_ms)

    async def events(self, from_revision: int = 0, *, follow: bool = False) -> AsyncIterator[admin_pb2.Event]:
        """The audit trail after a revision, going on at another replica when a stream breaks. `follow`: for ever."""
        broken = 0
        while True:
            request = admin_pb2.EventsRequest(sender=self.calls.sender, from_revision=from_revision, follow=follow)
            address = self.calls.addresses[broken % len(self.calls.addresses)]
            try:
                async for event in AdminStub(self.calls.channel(address)).Events(request):
                    from_revision = event.revision
                    yield event
            except grpc.aio.AioRpcError as error:
                raise_if_cancelled()
                broken += 1
                if error.code() not in RETRIABLE or (not follow and broken >= 3 * len(self.calls.addresses)):
                    raise typed(error) from error
                await self.calls.clock.sleep(100)
            else:
                return
