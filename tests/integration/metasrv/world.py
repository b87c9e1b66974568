"""Replicas of metasrv in this process, over real gRPC and HTTP on free ports, and a hand-driven datanode."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from prometheus_client import CollectorRegistry

from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.route_client import RouteClient
from groundwork.adapters.rpc import aio_channel
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.table import Column, Role
from metasrv.adapters.raft import EmbeddedRaft
from metasrv.config import MetasrvConfig, Timing
from metasrv.core.ports import Consensus, StateMachine
from metasrv.main import raft_config
from metasrv.service import ConsensusFactory, Service
from metasrv.sim.solo import SoloConsensus
from protos.metasrv.v1 import heartbeat_pb2, nodes_pb2, types_pb2
from protos.metasrv.v1.heartbeat_pb2_grpc import HeartbeatStub
from protos.metasrv.v1.nodes_pb2_grpc import NodesStub
from tests.ports import free_ports

CLUSTER = "0123456789abcdef0123456789abcdef"
CPU = [
    Column("host", "string", Role.TAG),
    Column("greptime_timestamp", "timestamp_ns", Role.TIME),
    Column("usage", "float64", Role.FIELD),
]
T = TypeVar("T")


LEASE_MS = 60_000  # no lease runs out during a test that is not about that, however slow the machine is


def configs(tmp_path: Path, n: int, lease_ms: int = LEASE_MS) -> list[MetasrvConfig]:
    """The configuration of n replicas. Three elect slowly: a test names the leader, and a pause must not move it."""
    election = {"election_ms_min": 1_500, "election_ms_max": 2_500} if n > 1 else {}
    grpc_ports, http_ports = free_ports(n), free_ports(n)
    peers = {f"metasrv-{i + 1}": f"127.0.0.1:{grpc_ports[i]}" for i in range(n)}
    return [
        MetasrvConfig(
            cluster_id=CLUSTER,
            node_id=node_id,
            locality=f"site-{i + 1}/zone-a",
            data_dir=str(tmp_path / node_id),
            listen=address,
            http_listen=f"127.0.0.1:{http_ports[i]}",
            peers=peers,
            object_store=ObjectStoreConfig(directory=str(tmp_path / "objects")),
            timing=Timing(lease_ms=lease_ms, beat_ms=min(500, lease_ms // 6), tick_ms=20, **election),
        )
        for i, (node_id, address) in enumerate(peers.items())
    ]


@contextlib.asynccontextmanager
async def replica(config: MetasrvConfig, consensus: ConsensusFactory | None = None) -> AsyncIterator[Service]:
    """One replica; a single one in memory unless told otherwise."""
    workers = ThreadWorkers("store", 1)
    store = DirectoryStore(Path(config.object_store.directory), workers)
    service = Service(
        config,
        SystemClock(),
        store,
        consensus or (lambda machine, server, registry: SoloConsensus(machine, config.node_id)),
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        workers.close()


@contextlib.asynccontextmanager
async def solo(tmp_path: Path, lease_ms: int = LEASE_MS) -> AsyncIterator[tuple[Service, RouteClient]]:
    """A bootstrapped single replica and a client of it."""
    config = configs(tmp_path, 1, lease_ms)[0]
    async with replica(config) as service, client([config.listen]) as routes:
        await routes.ready()
        yield service, routes


def embedded(config: MetasrvConfig) -> ConsensusFactory:
    """The real consensus of a replica."""

    def build(machine: StateMachine, server: grpc.aio.Server, registry: CollectorRegistry) -> Consensus:
        raft = EmbeddedRaft(raft_config(config, rejoin=False), machine, registry=registry)
        raft.register(server)
        return raft

    return build


@contextlib.asynccontextmanager
async def trio(tmp_path: Path, lease_ms: int = LEASE_MS) -> AsyncIterator[tuple[list[Service], RouteClient]]:
    """Three replicas with a leader, and a client of all of them."""
    async with contextlib.AsyncExitStack() as stack:
        settings = configs(tmp_path, 3, lease_ms)
        services = [await stack.enter_async_context(replica(c, embedded(c))) for c in settings]
        routes = await stack.enter_async_context(client([c.listen for c in settings]))
        await routes.ready(20_000)
        yield services, routes


async def leader_of(services: list[Service]) -> Service:
    """The one that leads, once one does and the cluster has begun."""

    async def look() -> Service | None:
        found = (s for s in services if s.consensus.leadership().is_leader and s.machine.state.cluster_id)
        return next(found, None)

    return await eventually(look)


@contextlib.asynccontextmanager
async def client(addresses: list[str]) -> AsyncIterator[RouteClient]:
    """A started route client."""
    routes = RouteClient(addresses, CLUSTER)
    await routes.start()
    try:
        yield routes
    finally:
        await routes.stop()


class Datanode:
    """Speaks an agent's part of the protocol, one step at a time, as a test says."""

    def __init__(self, address: str, node_id: str, folder_id: str = "folder", site: str = "site-1") -> None:
        self.channel = aio_channel(address, None)
        self.nodes = NodesStub(self.channel)
        self.sender = types_pb2.Sender(cluster_id=CLUSTER, node_id=node_id)
        self._folder_id = folder_id
        self._locality = f"{site}/zone-a"
        self._beats: Any = None
        self._count = 0

    async def register(self, takeover: bool = False, wait: bool = True) -> nodes_pb2.RegisterReply:
        """Register, and take the new incarnation. `wait` for the connection where there can be one."""
        reply = await self.nodes.Register(
            nodes_pb2.RegisterRequest(
                sender=self.sender,
                address="127.0.0.1:9",
                locality=self._locality,
                lanes=2,
                capacity_regions=100,
                folder_id=self._folder_id,
                takeover=takeover,
            ),
            timeout=20,
            wait_for_ready=wait,
        )
        self.sender.incarnation = reply.incarnation
        return reply

    async def beat(self, applied_revision: int = 0) -> heartbeat_pb2.BeatReply:
        """One heartbeat and its answer."""
        if self._beats is None:
            self._beats = HeartbeatStub(self.channel).Beat(wait_for_ready=True)
        self._count += 1
        await self._beats.write(
            heartbeat_pb2.BeatRequest(
                sender=self.sender,
                beat=self._count,
                applied_revision=applied_revision,
                lanes=[heartbeat_pb2.LaneHealth(index=i, open=True) for i in range(2)],
            )
        )
        async with asyncio.timeout(20):
            reply: heartbeat_pb2.BeatReply = await self._beats.read()
        return reply

    def hang_up(self) -> None:
        """End the stream of beats; the next beat opens another."""
        if self._beats is not None:
            self._beats.cancel()
            self._beats = None

    def orders(self) -> Any:
        """A stream of orders."""
        return self.nodes.Orders(nodes_pb2.OrdersRequest(sender=self.sender), wait_for_ready=True)

    async def serve(self, *region_ids: int, epoch: int) -> nodes_pb2.ReportReply:
        """Report that it serves these regions."""
        reports = [
            nodes_pb2.RegionReport(region_id=r, epoch=epoch, serving=nodes_pb2.RegionReport.Serving(claim_ms=3))
            for r in region_ids
        ]
        return await self.nodes.Report(
            nodes_pb2.ReportRequest(sender=self.sender, regions=reports), timeout=20, wait_for_ready=True
        )

    async def close(self) -> None:
        """Hang up."""
        self.hang_up()
        await self.channel.close()


@contextlib.asynccontextmanager
async def datanode(address: str, node_id: str, **more: Any) -> AsyncIterator[Datanode]:
    """A registered datanode that has beaten once, so that it counts as well."""
    node = Datanode(address, node_id, **more)
    try:
        await node.register()
        await node.beat()
        yield node
    finally:
        await node.close()


async def eventually(look: Callable[[], Awaitable[T | None]], seconds: float = 20) -> T:
    """What `look` returns once it is neither None nor False."""
    until = SystemClock().now_ms() + seconds * 1000
    while SystemClock().now_ms() < until:
        found = await look()
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


@contextlib.asynccontextmanager
async def beating(*nodes: Datanode, every_ms: float = 30) -> AsyncIterator[None]:
    """These nodes beat meanwhile."""

    async def run(node: Datanode) -> None:
        while True:
            await node.beat()
            await asyncio.sleep(every_ms / 1000)

    tasks = [asyncio.create_task(run(node)) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in nodes:
            node.hang_up()  # a beat that was cut short ended its stream
