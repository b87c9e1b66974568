"""The front door of the data path over real gRPC: who is meant, how much at once, how long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from datanode_agent.adapters.metrics import Metrics
from datanode_agent.adapters.server import REGIONS_A_REQUEST_MAX, DatanodeServicer, Identity
from datanode_agent.engine.config import EngineConfig
from datanode_agent.engine.engine import Engine
from groundwork.adapters.clock import SystemClock
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.rpc import aio_channel, aio_server, listen
from groundwork.adapters.workers import ThreadWorkers
from groundwork.sim.clock import SimClock, run_sim
from groundwork.sim.objects import Bucket, SimObjectStore
from groundwork.sim.workers import InlineWorkers
from protos.datanode.v1 import datanode_pb2 as pb
from protos.datanode.v1 import datanode_pb2_grpc
from tests.integration.agent.harness import CLUSTER_ID
from tests.integration.agent.replica import until
from tests.ports import free_ports

CLOCK = SystemClock()
TARGET = pb.Target(cluster_id=CLUSTER_ID, node_id="dn-1", incarnation=7)
REGION = 1 << 32


class _Leased:
    """A lease that never ends."""

    def valid(self) -> bool:
        return True


class _Caller:
    """What gRPC tells of a caller, of which only the deadline counts here."""

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s

    def time_remaining(self) -> float:
        return self._until_s - asyncio.get_running_loop().time()


class _Door:
    def __init__(self, stub: "datanode_pb2_grpc.DatanodeAsyncStub", metrics: Metrics, identity: Identity) -> None:
        self.stub = stub
        self.metrics = metrics
        self.identity = identity

    def in_flight(self, method: str) -> float:
        return self.metrics.registry.get_sample_value("datanode_requests_in_flight", {"method": method}) or 0.0


@asynccontextmanager
async def _door(writes_max: int = 100, scans_max: int = 100) -> AsyncIterator[_Door]:
    metrics, workers = Metrics(), ThreadWorkers("test", 2)
    store = SimObjectStore(Bucket())
    engine = Engine(
        node_id="dn-1", store=store, logs=ObjectsLog(store, CLOCK, workers), clock=CLOCK, workers=workers,
        config=EngineConfig(), lease=_Leased(), report=lambda _: None, registry=metrics.registry,
    )  # fmt: skip
    identity = Identity(CLUSTER_ID, "dn-1", lambda: 1_234.0)
    identity.incarnation = 7
    server, address = aio_server(), f"127.0.0.1:{free_ports(1)[0]}"
    servicer = DatanodeServicer(engine, identity, CLOCK, metrics, writes_max, scans_max)
    datanode_pb2_grpc.add_DatanodeServicer_to_server(servicer, server)
    listen(server, address, None)
    await engine.start(7, 1)
    await server.start()
    try:
        async with aio_channel(address, None) as channel:
            await channel.channel_ready()
            yield _Door(datanode_pb2_grpc.DatanodeStub(channel), metrics, identity)
    finally:
        await server.stop(None)
        await engine.stop(flush=False)
        workers.close()


def _write(epoch: int = 9, regions: int = 1, target: pb.Target = TARGET) -> pb.WriteRequest:
    writes = [pb.RegionWrite(region_id=REGION + i, epoch=epoch, schema_version=1, rows=1) for i in range(regions)]
    return pb.WriteRequest(target=target, writes=writes)


@pytest.mark.parametrize(
    "wrong", [{"cluster_id": "0" * 32}, {"node_id": "dn-2"}, {"incarnation": 6}, {"incarnation": 0}]
)
def test_a_request_for_somebody_else_is_refused(wrong: dict[str, str | int]) -> None:
    """An address may be reused: another cluster, node id or incarnation is told so for each region."""
    target = pb.Target()
    target.CopyFrom(TARGET)
    for name, value in wrong.items():
        setattr(target, name, value)

    async def story() -> None:
        async with _door() as door:
            outcomes = (await door.stub.Write(_write(regions=2, target=target), timeout=10)).outcomes
            assert [(o.region_id, o.outcome) for o in outcomes] == [
                (REGION, pb.WRONG_NODE),
                (REGION + 1, pb.WRONG_NODE),
            ]
            assert "dn-1" in outcomes[0].message
            replies = [r async for r in door.stub.Scan(pb.ScanRequest(target=target, region_id=REGION), timeout=10)]
            assert [r.refused.outcome for r in replies] == [pb.WRONG_NODE]

    asyncio.run(story())


def test_nobody_is_meant_before_the_registration() -> None:
    """Incarnation 0 is not an incarnation: an agent that is not registered serves nobody, tools aside."""

    async def story() -> None:
        async with _door() as door:
            door.identity.incarnation = 0
            target = pb.Target(cluster_id=CLUSTER_ID, node_id="dn-1")
            outcomes = (await door.stub.Write(_write(target=target), timeout=10)).outcomes
            assert [o.outcome for o in outcomes] == [pb.WRONG_NODE]
            reply = await door.stub.Regions(pb.RegionsRequest(target=target), timeout=10)
            assert (reply.node_id, reply.incarnation, reply.lease_left_ms) == ("dn-1", 0, 1_234)
            with pytest.raises(grpc.aio.AioRpcError):
                await door.stub.Regions(pb.RegionsRequest(target=pb.Target(node_id="dn-9")), timeout=10)

    asyncio.run(story())


def test_requests_beyond_the_bound_are_refused_with_a_hint() -> None:
    """Two requests wait for an epoch that has not arrived; the third is told to come back, and nothing piles up."""

    async def story() -> None:
        async with _door(writes_max=2, scans_max=1) as door:
            waiting = [asyncio.ensure_future(door.stub.Write(_write(), timeout=30)) for _ in range(2)]
            await until(lambda: door.in_flight("write") == 2, CLOCK, "two writes in flight")
            (outcome,) = (await door.stub.Write(_write(), timeout=10)).outcomes
            assert outcome.outcome == pb.OVERLOADED
            assert outcome.retry_after_ms > 0
            for call in waiting:
                call.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await until(lambda: door.in_flight("write") == 0, CLOCK, "the end of the cancelled writes")

    asyncio.run(story())


def test_a_refusal_arrives_before_the_callers_deadline() -> None:
    """A region that does not arrive in time is an outcome that says why, not a deadline that says nothing."""

    async def story() -> None:
        loop, metrics, store = asyncio.get_running_loop(), Metrics(), SimObjectStore(Bucket())
        clock, workers = SimClock(), InlineWorkers()
        engine = Engine(
            node_id="dn-1", store=store, logs=ObjectsLog(store, clock, workers), clock=clock, workers=workers,
            config=EngineConfig(), lease=_Leased(), report=lambda _: None, registry=metrics.registry,
        )  # fmt: skip
        identity = Identity(CLUSTER_ID, "dn-1", lambda: 1_234.0)
        identity.incarnation = 7
        servicer = DatanodeServicer(engine, identity, clock, metrics, 100, 100)
        await engine.start(7, 1)
        for patience_s in (0.1, 2.0, 30.0):
            caller = _Caller(loop.time() + patience_s)
            (outcome,) = (await servicer.Write(_write(), caller)).outcomes  # type: ignore[arg-type]
            assert outcome.outcome in (pb.NOT_OWNER, pb.OPENING)
            assert 0.0 < caller.time_remaining() <= patience_s / 10 + 0.001
        await engine.stop(flush=False)

    run_sim(story())


def test_a_request_has_a_bounded_number_of_regions() -> None:
    """More regions than the bound are a bad request, for all of them."""

    async def story() -> None:
        async with _door() as door:
            reply = await door.stub.Write(_write(regions=REGIONS_A_REQUEST_MAX + 1), timeout=30)
            assert {o.outcome for o in reply.outcomes} == {pb.BAD_REQUEST}

    asyncio.run(story())
