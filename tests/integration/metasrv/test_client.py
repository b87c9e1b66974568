"""The route client against replicas that die, lag or stall."""

import asyncio
import contextlib
from pathlib import Path

import grpc
import pytest

from groundwork.adapters.route_client import RouteClient
from groundwork.core.errors import Unknown
from metasrv.service import Service
from protos.metasrv.v1 import routes_pb2, routes_pb2_grpc
from tests.integration.metasrv.world import (
    CLUSTER,
    CPU,
    client,
    configs,
    datanode,
    embedded,
    eventually,
    leader_of,
    replica,
    solo,
)
from tests.ports import free_ports


def test_the_watch_goes_to_another_replica(tmp_path: Path) -> None:
    """P5's half: with the watched leader gone, the cache still answers, and news come from another replica."""

    async def story() -> None:
        settings = configs(tmp_path, 3)
        async with contextlib.AsyncExitStack() as stack:
            stacks: dict[str, contextlib.AsyncExitStack] = {}
            services: list[Service] = []
            for config in settings:
                own = stacks[config.node_id] = await stack.enter_async_context(contextlib.AsyncExitStack())
                services.append(await own.enter_async_context(replica(config, embedded(config))))
            leader = await leader_of(services)
            others = [s for s in services if s is not leader]
            # The leader comes first, so it is the one that is watched.
            addresses = [leader.config.listen, *(s.config.listen for s in others)]
            routes = await stack.enter_async_context(client(addresses))
            await routes.ready()
            node = await stack.enter_async_context(datanode(others[0].config.listen, "dn-1"))
            await routes.create_table("cpu", CPU)
            await stacks[leader.config.node_id].aclose()
            assert routes.table("cpu") is not None
            table = await routes.create_table("mem", CPU, deadline_ms=20_000)
            assert routes.route(table.region_ids[0]) is not None
            async with client([s.config.listen for s in others]) as second:
                await second.ready()
                await second.drop_table("cpu", deadline_ms=20_000)

            async def dropped() -> bool:
                return routes.table("cpu") is None

            await eventually(dropped)
            assert node.sender.incarnation

    asyncio.run(story())


def test_nobody_there_is_unknown_at_the_deadline() -> None:
    """Lookups never fail; what needs metasrv raises Unknown at its deadline, and says whom it asked."""

    async def story() -> None:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        routes = RouteClient([address], CLUSTER)
        await routes.start()
        assert routes.table("cpu") is None
        assert routes.route(1) is None
        for call in (
            routes.ready(deadline_ms=50),
            routes.refresh("cpu", deadline_ms=50),
            routes.create_table("cpu", CPU, deadline_ms=50),
            routes.wait_newer(1, 0, deadline_ms=50),
        ):
            with pytest.raises(Unknown, match="50 ms"):
                await call
        await routes.stop()

    asyncio.run(story())


def test_a_watch_resumes_from_its_revision(tmp_path: Path) -> None:
    """A watcher that comes back is sent the changes since, not the world; one that is ahead is sent away (T22)."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1"):
            await routes.create_table("cpu", CPU)
            at = service.machine.state.revision
            await routes.create_table("mem", CPU)
            stub = routes_pb2_grpc.RoutesStub(routes.calls.channel(service.config.listen))
            resumed = stub.Watch(routes_pb2.WatchRequest(sender=routes.calls.sender, from_revision=at))
            event = await resumed.read()
            assert isinstance(event, routes_pb2.RoutesEvent)
            assert not event.snapshot
            assert [t.name for t in event.tables] == ["mem"]
            resumed.cancel()
            fresh = stub.Watch(routes_pb2.WatchRequest(sender=routes.calls.sender))
            event = await fresh.read()
            assert isinstance(event, routes_pb2.RoutesEvent)
            assert event.snapshot
            assert [t.name for t in event.tables] == ["cpu", "mem"]
            fresh.cancel()
            ahead = stub.Watch(routes_pb2.WatchRequest(sender=routes.calls.sender, from_revision=at + 1_000))
            with pytest.raises(grpc.aio.AioRpcError, match="behind"):
                await ahead.read()

    asyncio.run(story())
