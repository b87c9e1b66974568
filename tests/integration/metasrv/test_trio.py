"""Three replicas over real gRPC and the real consensus: relay, forwarding, failover, watching."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest

from groundwork.adapters.admin_client import AdminClient
from groundwork.adapters.rpc import aio_channel
from groundwork.core.route_cache import Phase
from protos.metasrv.v1 import heartbeat_pb2, routes_pb2, routes_pb2_grpc
from tests.integration.metasrv.world import CPU, beating, datanode, eventually, leader_of, trio


def test_a_follower_relays_and_forwards(tmp_path: Path) -> None:
    """T21's cure: an agent that reaches only a follower registers, gets leases and reports through it."""

    async def story() -> None:
        async with trio(tmp_path) as (services, routes):
            leader = await leader_of(services)
            follower = next(s for s in services if s is not leader)

            async with datanode(follower.config.listen, "dn-1") as node:

                async def granted() -> heartbeat_pb2.BeatReply | None:
                    reply = await node.beat()
                    return reply if reply.HasField("grant") else None

                reply = await eventually(granted)
                assert reply.relayed
                assert reply.leader_address == leader.config.listen
                table = await routes.create_table("cpu", CPU)
                orders = node.orders()

                async def ordered() -> int | None:
                    told = await orders.read()
                    return told.orders[0].epoch if told.orders else None

                epoch = await eventually(ordered)
                await node.serve(*table.region_ids, epoch=epoch)

                async def serving() -> bool:
                    route = routes.route(table.region_ids[0])
                    return route is not None and route.phase is Phase.SERVING

                await eventually(serving)
                orders.cancel()

    asyncio.run(story())


def test_a_table_made_through_another_replica_is_known_to_all(tmp_path: Path) -> None:
    """Whoever made a table through one replica finds it at once through any other, however far behind that one is."""

    async def story() -> None:
        async with trio(tmp_path) as (services, routes):
            leader = await leader_of(services)
            followers = [s.config for s in services if s is not leader]
            channels = [aio_channel(c.listen, None) for c in followers]
            others = [routes_pb2_grpc.RoutesStub(channel) for channel in channels]
            node, client = datanode(leader.config.listen, "dn-1"), httpx.AsyncClient()
            async with node as dn_1, beating(dn_1), client:
                for n in range(20):
                    table = await routes.create_table(f"cpu-{n}", CPU)
                    request = routes_pb2.RoutesRequest(sender=routes.calls.sender, table=table.name)
                    replies = await asyncio.gather(
                        *(stub.Get(request, timeout=20, wait_for_ready=True) for stub in others)
                    )
                    assert {r.table.table_id for r in replies} == {table.table_id}
                    found = await client.get(
                        f"http://{followers[0].http_listen}/v1/routes", params={"table": table.name}
                    )
                    assert found.status_code == 200, found.text
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await others[0].Get(routes_pb2.RoutesRequest(sender=routes.calls.sender, table="no"), timeout=20)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            for channel in channels:
                await channel.close()

    asyncio.run(story())


def test_silence_is_failed_over(tmp_path: Path) -> None:
    """A datanode that falls silent loses its regions to the one that goes on beating, and the watch says so."""

    async def story() -> None:
        async with trio(tmp_path, lease_ms=600) as (services, routes):
            leader = await leader_of(services)
            async with datanode(leader.config.listen, "dn-1") as victim:
                async with beating(victim):
                    table = await routes.create_table("cpu", CPU, partitions=4)
                before = [routes.route(r) for r in table.region_ids]
                assert {r.node_id for r in before if r} == {"dn-1"}
                async with datanode(leader.config.listen, "dn-2", site="site-2") as survivor, beating(survivor):
                    for route in before:
                        assert route is not None
                        newer = await routes.wait_newer(route.region_id, route.epoch, deadline_ms=20_000)
                        assert newer.node_id == "dn-2"
                        assert newer.epoch > route.epoch

                    async def superseded() -> bool:
                        return (await victim.beat()).refusal == heartbeat_pb2.SUPERSEDED

                    await eventually(superseded)

    asyncio.run(story())


def test_leadership_moves_and_the_client_does_not_notice(tmp_path: Path) -> None:
    """Leadership is handed over; leases go on, and a change goes through whichever replica it is sent to."""

    async def story() -> None:
        async with trio(tmp_path) as (services, routes):
            first = await leader_of(services)
            other = next(s for s in services if s is not first)
            async with datanode(other.config.listen, "dn-1") as node:
                plan = await AdminClient(routes.calls).transfer_leader(other.config.node_id)
                assert plan.committed
                await routes.create_table("cpu", CPU)

                async def granted() -> bool:
                    return (await node.beat()).HasField("grant")

                await eventually(granted)
                assert (await leader_of(services)).consensus.leadership().leader_id == other.config.node_id
                assert (await AdminClient(routes.calls).transfer_leader()).committed  # to whichever is in reach

                async def seen() -> bool:
                    status = await AdminClient(routes.calls).status()
                    return len([r for r in status.replicas if r.reachable]) == 3 and status.leader_id != ""

                await eventually(seen)

    asyncio.run(story())


def test_a_relay_that_ends_by_a_defect_ends_its_replica(tmp_path: Path) -> None:
    """T21: an agent that reaches only this follower would lose its lease, and nothing would say why."""

    async def story() -> None:
        async with trio(tmp_path) as (services, _):
            leader = await leader_of(services)
            follower = next(s for s in services if s is not leader)
            failing = asyncio.create_task(follower.failed())
            await asyncio.sleep(0.1)
            assert not failing.done()
            relay = follower._faces.relay
            relay._unsent.add(("planted", 1))
            relay._poke.set()
            with pytest.raises(KeyError):
                async with asyncio.timeout(20):
                    await failing

    asyncio.run(story())
