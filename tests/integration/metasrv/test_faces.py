"""What one replica shows: HTTP, errors, foreign clusters, operators' changes."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import pytest

from groundwork.adapters import generations
from groundwork.adapters.admin_client import AdminClient
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.route_client import RouteClient
from groundwork.adapters.rpc import aio_channel
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.errors import BadInput, ForeignCluster, Refused
from metasrv.config import MetasrvConfig
from protos.metasrv.v1 import heartbeat_pb2, nodes_pb2, replica_pb2, types_pb2
from protos.metasrv.v1.replica_pb2_grpc import ReplicasStub
from tests.integration.metasrv.world import (
    CLUSTER,
    CPU,
    Datanode,
    beating,
    configs,
    datanode,
    eventually,
    replica,
    solo,
)

OTHER = "f" * 32


def _http(config: MetasrvConfig) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{config.http_listen}", timeout=20, trust_env=False)


def test_routes_over_http(tmp_path: Path) -> None:
    """Routes by table, key and region; a stale epoch gets 409 with the current owner; every error is typed."""

    async def story() -> None:
        async with (
            solo(tmp_path) as (service, routes),
            datanode(service.config.listen, "dn-1"),
            _http(service.config) as http,
        ):
            table = await routes.create_table("cpu", CPU, partitions=4)
            every = (await http.get("/v1/routes", params={"table": "cpu"})).json()
            assert [r["region_id"] for r in every["routes"]] == list(table.region_ids)
            one = (await http.get("/v1/routes", params={"table": "cpu", "tag.host": "a"})).json()
            assert [r["region_id"] for r in one["routes"]] == [table.region_of({"host": "a"})]
            epoch = one["routes"][0]["epoch"]
            path = f"/v1/routes/regions/{one['routes'][0]['region']}"
            assert (await http.get(path, params={"epoch": epoch})).status_code == 200
            stale = await http.get(path, params={"epoch": epoch - 1})
            assert stale.status_code == 409
            assert stale.json()["error"]["kind"] == "stale_epoch"
            assert stale.json()["error"]["route"] == one["routes"][0]
            for url, code, kind in [
                ("/v1/routes", 400, "bad_input"),
                ("/v1/routes?table=mem", 404, "not_found"),
                ("/v1/routes?table=cpu&tag.rack=1", 400, "bad_input"),
                ("/v1/routes?table=cpu&host=a", 400, "bad_input"),
                ("/v1/routes/regions/x", 400, "bad_input"),
                ("/v1/routes/regions/7", 404, "not_found"),
                ("/v2", 404, "not_found"),
            ]:
                reply = await http.get(url)
                assert (reply.status_code, reply.json()["error"]["kind"]) == (code, kind), url

    asyncio.run(story())


def test_documents_match_the_openapi(tmp_path: Path) -> None:
    """/openapi.json names every path, and the documents have exactly the fields that it says."""

    async def story() -> None:
        async with (
            solo(tmp_path) as (service, _),
            datanode(service.config.listen, "dn-1"),
            _http(service.config) as http,
        ):
            openapi = (await http.get("/openapi.json")).json()
            schemas = openapi["components"]["schemas"]
            cluster = (await http.get("/v1/cluster")).json()
            assert set(cluster) == set(schemas["ClusterDoc"]["properties"])
            assert set(cluster["nodes"][0]) == set(schemas["NodeDoc"]["properties"])
            assert cluster["nodes"][0]["status"] == "up"
            starting = Datanode(service.config.listen, "dn-2")
            await starting.register()
            assert (await http.get("/v1/cluster")).json()["nodes"][1]["status"] == "opening"
            await starting.beat()
            assert (await http.get("/v1/cluster")).json()["nodes"][1]["status"] == "up"
            await starting.close()
            for path in ("/health", "/ready", "/v1/cluster", "/metrics"):
                assert path in openapi["paths"]
                assert (await http.get(path)).status_code == 200
            assert 'metasrv_commands_total{kind="Register"} 2.0' in (await http.get("/metrics")).text

    asyncio.run(story())


def test_events_go_on_as_they_happen(tmp_path: Path) -> None:
    """P6: the audit trail is a stream of sentences, over HTTP and gRPC, and is taken up where it was left."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), _http(service.config) as http:
            admin = AdminClient(routes.calls)
            before = [e async for e in admin.events()]
            assert [e.kind for e in before] == ["bootstrap"]
            async with (
                http.stream("GET", "/v1/events", params={"from_revision": before[-1].revision}) as sse,
                datanode(service.config.listen, "dn-1"),
            ):
                lines = sse.aiter_lines()
                data = ""
                while not data.startswith("data: "):
                    data = await anext(lines)
                assert msgspec.json.decode(data.removeprefix("data: "))["kind"] == "register"
                after = [e async for e in admin.events(before[-1].revision)]
                assert after[0].kind == "register"
                assert "dn-1" in after[0].sentence

    asyncio.run(story())


def test_a_foreign_cluster_is_refused(tmp_path: Path) -> None:
    """T20: another cluster id is refused on every kind of call, and said on the heartbeat's stream."""

    async def story() -> None:
        async with solo(tmp_path) as (service, _):
            stranger = Datanode(service.config.listen, "dn-1")
            stranger.sender.cluster_id = OTHER
            assert (await stranger.beat()).refusal == heartbeat_pb2.FOREIGN_CLUSTER
            for call in (stranger.register(), stranger.serve(1, epoch=1), stranger.orders().read()):
                with pytest.raises(grpc.aio.AioRpcError, match="this is cluster") as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            lost = RouteClient([service.config.listen], OTHER)
            with pytest.raises(ForeignCluster, match=CLUSTER):
                await lost.refresh("cpu")
            await lost.stop()
            async with aio_channel(service.config.listen, None) as channel:
                relay = ReplicasStub(channel).Relay(wait_for_ready=True)
                await relay.write(replica_pb2.RelayRequest(cluster_id=OTHER, replica_id="metasrv-2"))
                with pytest.raises(grpc.aio.AioRpcError, match="this is cluster"):
                    await relay.read()
            await stranger.close()
            assert service.machine.state.nodes == {}

    asyncio.run(story())


def test_an_object_store_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """T20: the generation marker in the store says whose it is; a replica of another cluster does not start."""

    async def story() -> None:
        config = configs(tmp_path, 1)[0]
        workers = ThreadWorkers("store", 1)
        store = DirectoryStore(Path(config.object_store.directory), workers)
        await generations.begin_first(store, OTHER)
        with pytest.raises(ForeignCluster, match=OTHER):
            async with replica(config):
                pass
        await store.delete([generations.key_of(1)])
        await generations.begin_first(store, CLUSTER)
        await generations.begin_first(store, CLUSTER)  # a bootstrap that was interrupted is taken up
        await store.create(generations.key_of(2), (await store.get(generations.key_of(1))).replace(b":1}", b":2}"))
        with pytest.raises(BadInput, match="no state"):
            await generations.begin_first(store, CLUSTER)
        workers.close()

    asyncio.run(story())


def test_operators_plan_first(tmp_path: Path) -> None:
    """Drain, pause, migrate: a dry run changes nothing, a change is in the audit trail with its author."""

    async def story() -> None:
        async with (
            solo(tmp_path) as (service, routes),
            datanode(service.config.listen, "dn-1") as one,
            datanode(service.config.listen, "dn-2", site="site-2") as two,
            beating(one, two),
        ):
            admin = AdminClient(routes.calls, who="ann")
            table = await routes.create_table("cpu", CPU, partitions=2)
            state = service.machine.state
            for node in (one, two):
                for lane in state.open_lanes(node.sender.node_id):
                    await node.serve(*state.regions_of(lane), epoch=routes.route(table.region_ids[0]).epoch)  # type: ignore[union-attr]
            region = table.region_ids[0]
            owner = state.regions[region].lane.node_id
            other = {"dn-1": "dn-2", "dn-2": "dn-1"}[owner]
            dry = await admin.migrate([region], other, dry_run=True)
            assert not dry.committed
            assert [(s.region_id, s.from_node, s.to_node) for s in dry.steps] == [(region, owner, other)]
            assert not state.migrations
            wet = await admin.migrate([region], other, request_id="m")
            assert wet.committed
            assert (await admin.migrate([region], other, request_id="m")).procedure_id == wet.procedure_id
            assert [p.kind for p in await admin.procedures()] == ["migration"]
            await admin.cancel(wet.procedure_id)
            assert not await admin.procedures()
            assert (await admin.pause("node/dn-1", 60_000, "new disk")).committed
            assert [p.scope for p in (await admin.status()).pauses] == ["node/dn-1"]
            await admin.resume("node/dn-1")
            with pytest.raises(Refused, match="not paused"):
                await admin.resume("node/dn-1")
            with pytest.raises(BadInput, match="scope"):
                await admin.pause("dn-1", 60_000, "")
            drain = await admin.drain("dn-2", dry_run=True)
            assert not drain.committed
            assert (await admin.drain("dn-2")).committed
            assert {n.node_id: n.status for n in (await admin.status()).nodes}["dn-2"].startswith("drain")
            await admin.drain("dn-2", undo=True)
            sentences = list(await admin.explain(region_id=region))
            assert any("migration" in s or "move" in s for s in sentences), sentences
            assert await admin.explain(node_id="dn-1")
            told = [e.sentence async for e in admin.events()]
            assert any("ann" in s and "new disk" in s for s in told)

    asyncio.run(story())


def test_a_pause_outlives_silence(tmp_path: Path) -> None:
    """Maintenance: a paused node that falls silent is not failed over, and metasrv says so (P6)."""

    async def story() -> None:
        async with solo(tmp_path, lease_ms=1_000) as (service, routes), datanode(service.config.listen, "dn-1") as one:
            admin = AdminClient(routes.calls, who="ann")
            async with beating(one):
                await routes.create_table("cpu", CPU)
                await admin.pause("node/dn-1", 60_000, "new disk")
            async with datanode(service.config.listen, "dn-2") as two, beating(two):

                async def explained() -> Any:
                    return [e.sentence async for e in admin.events() if e.kind == "not_failed_over"]

                assert "ann" in (await eventually(explained))[0]
                assert (await one.beat()).HasField("grant")

    asyncio.run(story())


def test_bad_reports_and_addresses_are_typed(tmp_path: Path) -> None:
    """A request that makes no sense is refused by field, and nothing is committed for it."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1") as node:
            before = service.machine.state.revision
            empty = types_pb2.Sender(cluster_id=CLUSTER, node_id="dn-1", incarnation=node.sender.incarnation)
            report = nodes_pb2.ReportRequest(sender=empty, regions=[nodes_pb2.RegionReport(region_id=5)])
            [refused] = (await node.nodes.Report(report)).refused
            assert (refused.kind, "says nothing" in refused.message) == ("unknown_report", True)
            with pytest.raises(BadInput, match="scope"):
                await AdminClient(routes.calls).pause("site", 1, "")
            bad = Datanode(service.config.listen, "DN 1")
            with pytest.raises(grpc.aio.AioRpcError, match="not 1 to 63"):
                await bad.register()
            await bad.close()
            assert service.machine.state.revision == before

    asyncio.run(story())
