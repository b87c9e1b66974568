"""Status: what this replica knows of the cluster, and the view of all replicas put together."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from groundwork.core.errors import NotLeader
from groundwork.core.ports import Clock
from metasrv.adapters.forward import Forwarder, Peers
from metasrv.adapters.guard import FORWARDED
from metasrv.core.leases import LeaseBook, NodeView
from metasrv.core.machine import Machine
from metasrv.core.ports import Consensus
from metasrv.core.records import Node, NodeStatus
from protos.metasrv.v1 import admin_pb2, types_pb2
from protos.metasrv.v1.admin_pb2_grpc import AdminStub

PEER_TIMEOUT_S = 0.5


class StatusFace:
    """Builds StatusReply."""

    def __init__(
        self,
        *,
        cluster_id: str,
        locality: str,
        clock: Clock,
        machine: Machine,
        book: LeaseBook,
        consensus: Consensus,
        peers: Peers,
        forwarder: Forwarder,
    ) -> None:
        self._cluster_id = cluster_id
        self._locality = locality
        self._clock = clock
        self._machine = machine
        self._book = book
        self._consensus = consensus
        self._peers = peers
        self._forwarder = forwarder

    async def of_cluster(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusReply:
        """The leader's view where there is a leader in reach, else this replica's."""
        try:
            return await self._forwarder.run(request, context, self._with_peers, lambda c: AdminStub(c).Status)
        except NotLeader:
            return await self._with_peers(request)

    def local(self) -> admin_pb2.StatusReply:
        """What this replica knows by itself."""
        state = self._machine.state
        leadership = self._consensus.leadership()
        now_ms = self._clock.now_ms()
        views = self._book.inventory(state, now_ms) if leadership.is_leader else {}
        reply = admin_pb2.StatusReply(
            cluster_id=self._cluster_id,
            revision=state.revision,
            term=leadership.term,
            leader_id=leadership.leader_id or "",
            replicas=[self._myself()],
            tables=sum(1 for t in state.tables.values() if not t.dropping),
            regions=len(state.regions),
            regions_by_phase={phase.name.lower(): n for phase, n in state.phases().items() if n},
            lease_ms=state.config.lease_ms,
        )
        heard = {h.node_id: h for h in self._book.memory(now_ms)}
        for node_id in sorted(state.nodes):
            node = state.nodes[node_id]
            entry = heard.get(node_id)
            age_ms = entry.age_ms if entry is not None and entry.incarnation == node.incarnation else None
            reply.nodes.append(self._node(node, views.get(node_id), age_ms))
        for pause in state.pauses.values():
            reply.pauses.append(
                admin_pb2.Pause(
                    scope=pause.scope, reason=pause.reason, who=pause.who, expires_wall_ms=pause.expires_wall_ms
                )
            )
        return reply

    async def replicas(self) -> list[admin_pb2.Replica]:
        """All replicas, by node id, as each says of itself now."""
        others = await asyncio.gather(*(self._ask(node_id) for node_id in self._peers.others))
        return sorted([self._myself(), *others], key=lambda r: r.node_id)

    def _myself(self) -> admin_pb2.Replica:
        return admin_pb2.Replica(
            node_id=self._peers.node_id,
            address=self._peers.addresses[self._peers.node_id],
            locality=self._locality,
            leader=self._consensus.leadership().is_leader,
            reachable=True,
            applied_revision=self._machine.state.revision,
        )

    def _node(self, node: Node, view: NodeView | None, age_ms: float | None) -> admin_pb2.Node:
        state = self._machine.state
        silent_ms = view.silent_ms if view is not None else age_ms if age_ms is not None else node.silent_ms
        return admin_pb2.Node(
            node_id=node.node_id,
            incarnation=node.incarnation,
            address=node.address,
            locality=node.locality,
            status=self._status_word(node, view),
            silent_ms=max(0, int(min(silent_ms, 2**62))),
            regions=state.node_region_count(node.node_id),
            capacity_regions=node.capacity_regions,
            unflushed_bytes=view.unflushed_bytes if view is not None else 0,
            lanes=[str(lane) for lane in state.node_lanes(node.node_id)],
        )

    def _status_word(self, node: Node, view: NodeView | None) -> str:
        if node.status is NodeStatus.SUSPECT:
            return "suspect"
        if node.status in (NodeStatus.RELEASED, NodeStatus.LOST):
            return node.status.name.lower()
        if node.node_id in self._machine.state.drains:
            return "draining" if self._machine.state.node_region_count(node.node_id) else "drained"
        if view is not None and not view.well:
            return "unwell"
        if view is not None and view.opening:
            return "opening"
        return "up"

    async def _with_peers(self, request: admin_pb2.StatusRequest) -> admin_pb2.StatusReply:
        reply = self.local()
        del reply.replicas[:]
        reply.replicas.extend(await self.replicas())
        return reply

    async def _ask(self, node_id: str) -> admin_pb2.Replica:
        request = admin_pb2.StatusRequest(
            sender=types_pb2.Sender(cluster_id=self._cluster_id, node_id=self._peers.node_id)
        )
        try:
            reply = await AdminStub(self._peers.channel(node_id)).Status(
                request, timeout=PEER_TIMEOUT_S, metadata=((FORWARDED, self._peers.node_id),)
            )
        except grpc.aio.AioRpcError:
            # Not reached is an answer here: the reply says so.
            return admin_pb2.Replica(node_id=node_id, address=self._peers.addresses[node_id], reachable=False)
        return next(
            (r for r in reply.replicas if r.node_id == node_id),
            admin_pb2.Replica(node_id=node_id, address=self._peers.addresses[node_id], reachable=True),
        )
