"""A frontend, agents and one metasrv replica in the test's own loop, all of them real, spoken to over real HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio
import httpx

from datanode_agent.config import DatanodeConfig
from datanode_agent.engine.config import EngineConfig
from datanode_agent.service import Agent
from groundwork.adapters import generations
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.rpc import aio_channel, aio_server, listen
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.ids import Lane
from metasrv.core import commands
from metasrv_frontend.config import FrontendConfig, check_config
from metasrv_frontend.service import Frontend
from protos.datanode.v1 import datanode_pb2, datanode_pb2_grpc
from tests.integration.agent.harness import CLUSTER_ID
from tests.integration.agent.replica import Replica, replica, until
from tests.ports import free_ports

DEADLINE_MS = 50_000  # of a request that must succeed, however slow the machine is
SHORT = {"x-deadline-ms": "2000"}  # of a request that cannot: time for what is done before it fails

Context = grpc.aio.ServicerContext[Any, Any]


class World(NamedTuple):
    """A replica, a frontend that has its routes, and a client of it."""

    replica: Replica
    frontend: Frontend
    http: httpx.AsyncClient

    async def write(self, lines: str | bytes, path: str = "/v1/influxdb/write", **options: Any) -> httpx.Response:
        """Send line protocol."""
        return await self.http.post(path, content=lines, **options)

    async def sql(self, text: str, **parameters: str) -> httpx.Response:
        """Send SQL in a form."""
        return await self.http.post("/v1/sql", data={"sql": text}, params=parameters)

    async def rows(self, text: str, **parameters: str) -> list[list[Any]]:
        """The rows of a query that must succeed."""
        answer = await self.sql(text, **parameters)
        assert answer.status_code == 200, answer.text
        rows: list[list[Any]] = answer.json()["output"][-1]["records"]["rows"]
        return rows


@asynccontextmanager
async def frontend_of(one: Replica, **settings: Any) -> AsyncIterator[World]:
    """A frontend of that replica, ready, with a client; both are stopped at the end."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = FrontendConfig(
        cluster_id=CLUSTER_ID,
        node_id="fe-1",
        locality="site-1/zone-a",
        http_listen=address,
        metasrv=[one.address],
        **{"deadline_ms": DEADLINE_MS, **settings},
    )
    frontend = Frontend(check_config(config))
    await frontend.start()
    try:
        await frontend.routes.ready()
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=2 * DEADLINE_MS / 1000) as http:
            yield World(one, frontend, http)
    finally:
        await frontend.stop()


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """A replica that knows one datanode, at an address where nobody answers, and a frontend."""
    async with replica(lease_ms=60_000) as one:
        await one.register("dn-1")
        async with frontend_of(one, **settings) as found:
            yield found


class Wire(datanode_pb2_grpc.DatanodeServicer):
    """The network before one datanode: passes requests on, and breaks when a test says so."""

    def __init__(self, address: str, behind: str) -> None:
        self.address = address
        self._server = aio_server()
        self._channel = aio_channel(behind, None)
        self._stub: datanode_pb2_grpc.DatanodeAsyncStub = datanode_pb2_grpc.DatanodeStub(self._channel)
        self.writes: list[datanode_pb2.WriteRequest] = []
        self.scans: list[datanode_pb2.ScanRequest] = []
        self.before_write: Callable[[datanode_pb2.WriteRequest, Context], Awaitable[None]] | None = None
        self.lose_write_replies = 0  # so many replies are lost after the datanode did it
        self.cut_scans = 0  # so many scans break after their first piece
        self.refuse_writes: list[datanode_pb2.RegionOutcome] = []  # answered instead, one a request

    async def start(self) -> None:
        """Listen at the address that the datanode tells others."""
        datanode_pb2_grpc.add_DatanodeServicer_to_server(self, self._server)
        listen(self._server, self.address, None)
        await self._server.start()

    async def stop(self) -> None:
        """Close both sides."""
        await self._server.stop(None)
        await self._channel.close()

    async def Write(self, request: datanode_pb2.WriteRequest, context: Context) -> datanode_pb2.WriteReply:
        """Pass on, or do what the test asked for."""
        self.writes.append(request)
        if self.before_write is not None:
            await self.before_write(request, context)
        if self.refuse_writes:
            refusal = self.refuse_writes.pop(0)
            outcomes = []
            for write in request.writes:
                outcome = datanode_pb2.RegionOutcome()
                outcome.CopyFrom(refusal)
                outcome.region_id = write.region_id
                outcomes.append(outcome)
            return datanode_pb2.WriteReply(outcomes=outcomes)
        try:
            reply = await self._stub.Write(request, timeout=context.time_remaining(), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        if self.lose_write_replies:
            self.lose_write_replies -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the reply is lost")
        assert isinstance(reply, datanode_pb2.WriteReply)
        return reply

    async def Scan(self, request: datanode_pb2.ScanRequest, context: Context) -> AsyncIterator[datanode_pb2.ScanReply]:
        """Pass on, or break off."""
        self.scans.append(request)
        async for reply in self._stub.Scan(request, timeout=context.time_remaining(), wait_for_ready=True):
            yield reply
            if self.cut_scans:
                self.cut_scans -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream breaks")


class Datanode(NamedTuple):
    """A real agent behind a wire."""

    agent: Agent
    wire: Wire


async def _agent(folder: Path, one: Replica, name: str, engine: EngineConfig, stack: AsyncExitStack) -> Datanode:
    told, real, http = (f"127.0.0.1:{port}" for port in free_ports(3))
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    workers = ThreadWorkers("store", 1)
    await generations.begin_first(DirectoryStore(folder / "objects", workers), CLUSTER_ID)
    workers.close()
    config = DatanodeConfig(
        cluster_id=CLUSTER_ID, node_id=name, locality="site-1/zone-a", data_dir=str(folder / name), listen=real,
        http_listen=http, metasrv=(one.address,), object_store=ObjectStoreConfig(directory=str(folder / "objects")),
        advertise=told, stop="fast", engine=engine,
    )  # fmt: skip
    wire = Wire(told, real)
    await wire.start()
    stack.push_async_callback(wire.stop)
    agent = Agent(config)
    life = asyncio.create_task(agent.run())

    async def end() -> None:
        agent.stop()
        agent.stop()
        await life

    stack.push_async_callback(end)
    await until(lambda: agent._readiness().ready or life.done(), SystemClock(), f"{name} is ready")
    if life.done():
        life.result()
    return Datanode(agent, wire)


class Cluster(NamedTuple):
    """A world with datanodes."""

    world: World
    nodes: dict[str, Datanode]

    async def fail_over(self, name: str, to: str) -> None:
        """Commit what a leader would when it had lost a node."""
        replica = self.world.replica
        lost = replica.machine.state.nodes[name].incarnation
        heir = replica.machine.state.nodes[to].incarnation
        moves = tuple(commands.Move(Lane(name, lost, i), Lane(to, heir, i)) for i in range(2))
        await replica.proposer.commit(commands.Suspect(node_id=name, incarnation=lost, silent_ms=1))
        await replica.proposer.commit(
            commands.Failover(ended=(commands.Ended(name, lost),), moves=moves, sentence="the test says so")
        )


@asynccontextmanager
async def cluster(
    folder: Path,
    names: tuple[str, ...] = ("dn-1",),
    engine: EngineConfig | None = None,
    lease_ms: int = 60_000,
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """A replica, agents that serve, and a frontend; all stopped at the end."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(replica(lease_ms))
        nodes = {name: await _agent(folder, one, name, engine or EngineConfig(), stack) for name in names}
        found = await stack.enter_async_context(frontend_of(one, **settings))
        yield Cluster(found, nodes)
