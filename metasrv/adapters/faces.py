"""Everything that one replica answers: all gRPC services behind one guard, and HTTP, over the same state."""

from collections.abc import Callable

import grpc.aio
from starlette.applications import Starlette

from groundwork.core.ports import Clock
from metasrv.adapters.admin_api import Admin
from metasrv.adapters.beats import Beats, RelayLink
from metasrv.adapters.catalog_api import Catalog
from metasrv.adapters.forward import Forwarder, Peers
from metasrv.adapters.gauges import refresh_gauges
from metasrv.adapters.http_api import HttpFace
from metasrv.adapters.judge import LeaseJudge
from metasrv.adapters.metrics import Metrics
from metasrv.adapters.nodes_api import Nodes
from metasrv.adapters.proposing import Proposer
from metasrv.adapters.replicas import Replicas
from metasrv.adapters.routes_api import Routes
from metasrv.adapters.state_feeds import StateFeeds
from metasrv.adapters.status import StatusFace
from metasrv.config import MetasrvConfig
from metasrv.core.leases import LeaseBook
from metasrv.core.machine import Machine
from protos.metasrv.v1.admin_pb2_grpc import add_AdminServicer_to_server
from protos.metasrv.v1.catalog_pb2_grpc import add_CatalogServicer_to_server
from protos.metasrv.v1.heartbeat_pb2_grpc import add_HeartbeatServicer_to_server
from protos.metasrv.v1.nodes_pb2_grpc import add_NodesServicer_to_server
from protos.metasrv.v1.replica_pb2_grpc import add_ReplicasServicer_to_server
from protos.metasrv.v1.routes_pb2_grpc import add_RoutesServicer_to_server


class Faces:
    """Builds the services, adds them to a gRPC server, and makes the HTTP application."""

    def __init__(
        self,
        *,
        config: MetasrvConfig,
        clock: Clock,
        machine: Machine,
        book: LeaseBook,
        proposer: Proposer,
        peers: Peers,
        metrics: Metrics,
        poke: Callable[[], None],
    ) -> None:
        consensus = proposer.consensus
        address = config.peers[config.node_id]
        feeds = self._feeds = StateFeeds(machine)
        forwarder = Forwarder(consensus, peers)
        judge = LeaseJudge(
            clock=clock, consensus=consensus, machine=machine, book=book, metrics=metrics, address=address, poke=poke
        )
        self.relay = RelayLink(config.cluster_id, clock, consensus, peers, metrics, config.timing.lease_ms / 3)
        self._beats = Beats(config.cluster_id, clock, consensus, judge, self.relay, metrics)
        self.replicas = Replicas(clock, consensus, judge, book, metrics)
        self._nodes = Nodes(machine, proposer, forwarder, book, feeds, metrics)
        self._routes = Routes(machine, feeds, metrics, forwarder)
        self._catalog = Catalog(machine, proposer, forwarder, book)
        status = StatusFace(
            cluster_id=config.cluster_id,
            locality=config.locality,
            clock=clock,
            machine=machine,
            book=book,
            consensus=consensus,
            peers=peers,
            forwarder=forwarder,
        )
        self._admin = Admin(
            machine=machine,
            proposer=proposer,
            forwarder=forwarder,
            book=book,
            feeds=feeds,
            status=status,
            peers=peers,
            metrics=metrics,
        )
        self._http = HttpFace(
            node_id=config.node_id,
            machine=machine,
            consensus=consensus,
            routes=self._routes,
            admin=self._admin,
            status=status,
            metrics=metrics,
            fresh=lambda: refresh_gauges(metrics, machine, consensus, book, clock.now_ms()),
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add all gRPC services."""
        add_HeartbeatServicer_to_server(self._beats, server)
        add_ReplicasServicer_to_server(self.replicas, server)
        add_NodesServicer_to_server(self._nodes, server)
        add_RoutesServicer_to_server(self._routes, server)
        add_CatalogServicer_to_server(self._catalog, server)
        add_AdminServicer_to_server(self._admin, server)

    def close_streams(self) -> None:
        """Let watchers go to another replica by themselves."""
        self._feeds.close()

    def http_app(self) -> Starlette:
        """The HTTP application."""
        return self._http.app()
