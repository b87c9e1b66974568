"""One replica over real gRPC: registration, leases, orders, tables, routes."""

import asyncio
from pathlib import Path

import grpc
import pytest

from groundwork.adapters.admin_client import AdminClient
from groundwork.core.errors import BadInput, Refused
from groundwork.core.route_cache import Phase
from groundwork.core.table import Column, Role
from protos.metasrv.v1 import heartbeat_pb2, nodes_pb2
from tests.integration.metasrv.world import CPU, LEASE_MS, Datanode, datanode, eventually, solo


def test_register_beat_orders_report(tmp_path: Path) -> None:
    """A datanode registers, gets a lease, is ordered to open a new table's region, reports, and the route serves."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1") as node:
            granted = await node.beat()
            assert granted.HasField("grant"), granted
            assert list(granted.grant.lanes) == [0, 1]
            orders = node.orders()
            first = await orders.read()
            assert first.snapshot
            assert not first.orders
            table = await routes.create_table("cpu", CPU, partitions=2)
            while not (told := await orders.read()).orders:
                pass
            assert [o.region_id for o in told.orders] == list(table.region_ids)
            assert {o.kind for o in told.orders} == {nodes_pb2.OPEN}
            assert told.tables[0].name == "cpu"
            assert told.revision >= (await node.beat()).grant.assignment_revision
            epoch = told.orders[0].epoch
            await node.serve(*table.region_ids, epoch=epoch)

            async def serving() -> bool:
                found = [routes.route(r) for r in table.region_ids]
                return all(r is not None and r.phase is Phase.SERVING and r.epoch == epoch for r in found)

            await eventually(serving)
            orders.cancel()

    asyncio.run(story())


def test_grants_name_the_revision_to_apply(tmp_path: Path) -> None:
    """A grant's assignment revision grows with the node's orders and is covered by the stream that carries them."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1") as node:
            before = (await node.beat()).grant.assignment_revision
            await routes.create_table("cpu", CPU)
            after = (await node.beat()).grant.assignment_revision
            assert after > before
            stream = node.orders()
            assert (await stream.read()).revision >= after
            stream.cancel()

    asyncio.run(story())


def test_unknown_and_superseded_incarnations_get_no_lease(tmp_path: Path) -> None:
    """A beat of a node that never registered, and of an older incarnation, is refused by name."""

    async def story() -> None:
        async with solo(tmp_path) as (service, _):
            stranger = Datanode(service.config.listen, "dn-9")
            assert (await stranger.beat()).refusal == heartbeat_pb2.UNKNOWN_NODE
            async with datanode(service.config.listen, "dn-1") as old, datanode(service.config.listen, "dn-1") as new:
                assert (await old.beat()).refusal == heartbeat_pb2.SUPERSEDED
                assert (await new.beat()).HasField("grant")
                with pytest.raises(grpc.aio.AioRpcError, match="registered again"):
                    await old.orders().read()
            await stranger.close()

    asyncio.run(story())


def test_another_folder_is_refused_while_the_node_is_heard(tmp_path: Path) -> None:
    """T8's neighbour: a second process with the same node id and another folder needs takeover."""

    async def story() -> None:
        async with solo(tmp_path) as (service, _), datanode(service.config.listen, "dn-1"):
            other = Datanode(service.config.listen, "dn-1", folder_id="elsewhere")
            with pytest.raises(grpc.aio.AioRpcError, match="takeover"):
                await other.register()
            assert (await other.register(takeover=True)).incarnation
            await other.close()

    asyncio.run(story())


def test_tables_are_widened_and_dropped(tmp_path: Path) -> None:
    """Columns are appended once; a table that is there, is not there or clashes is refused with a typed error."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1"):
            first = await routes.create_table("cpu", CPU, request_id="same")
            assert (await routes.create_table("cpu", CPU, request_id="same")).table_id == first.table_id
            assert (await routes.create_table("cpu", CPU, if_not_exists=True)).table_id == first.table_id
            with pytest.raises(Refused, match="already") as refused:
                await routes.create_table("cpu", CPU)
            assert refused.value.kind == "exists"
            wider = await routes.widen_table("cpu", [*CPU, Column("idle", "float64", Role.FIELD)])
            assert wider.schema.version == 2
            assert wider.schema.at(1) == first.schema
            with pytest.raises(BadInput, match="usage"):
                await routes.widen_table("cpu", [Column("usage", "string", Role.FIELD)])
            with pytest.raises(BadInput, match="4,001 is not 1 to 4,000"):
                await routes.create_table("wide", CPU, partitions=4_001)
            with pytest.raises(BadInput, match="one time column"):
                await routes.create_table("odd", CPU[:1])
            await routes.drop_table("cpu")
            assert routes.table("cpu") is None
            assert await routes.refresh("cpu") is None
            with pytest.raises(Refused, match="no table"):
                await routes.drop_table("cpu")
            await routes.drop_table("cpu", if_exists=True)

    asyncio.run(story())


def test_no_datanode_means_no_table(tmp_path: Path) -> None:
    """Without a datanode a table is refused, with the reason, instead of waiting for one."""

    async def story() -> None:
        async with solo(tmp_path) as (_, routes):
            with pytest.raises(Refused) as refused:
                await routes.create_table("cpu", CPU)
            assert refused.value.kind == "no_capacity"

    asyncio.run(story())


def test_a_witnessed_death_moves_regions_at_once(tmp_path: Path) -> None:
    """Released by a witness, a datanode's regions have another owner without waiting for any lease."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1") as one:
            table = await routes.create_table("cpu", CPU)
            async with datanode(service.config.listen, "dn-2"):
                before = routes.route(table.region_ids[0])
                assert before is not None
                await one.nodes.Release(nodes_pb2.ReleaseRequest(sender=one.sender, witness="systemd"))
                after = await routes.wait_newer(table.region_ids[0], before.epoch, deadline_ms=20_000)
                assert after.node_id == "dn-2"
                assert (await one.beat()).refusal == heartbeat_pb2.SUPERSEDED

    asyncio.run(story())


def test_a_restart_supersedes_and_recovers(tmp_path: Path) -> None:
    """T8: a registration of the same folder proves the old process gone: its regions open under a new epoch at once."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1"):
            table = await routes.create_table("cpu", CPU)
            before = routes.route(table.region_ids[0])
            assert before is not None
            async with datanode(service.config.listen, "dn-1") as again:
                after = await routes.wait_newer(table.region_ids[0], before.epoch, deadline_ms=20_000)
                assert after.incarnation == again.sender.incarnation
                orders = again.orders()
                order = next(iter((await orders.read()).orders))
                assert order.kind == nodes_pb2.OPEN
                assert [lane.incarnation for lane in order.over] == [before.incarnation]
                orders.cancel()

    asyncio.run(story())


def test_who_registers_late_is_not_suspect(tmp_path: Path) -> None:
    """A datanode that registers long after the leader's election is not held silent since then."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes):
            service.book.elected(service.clock.now_ms() - 2 * LEASE_MS)
            node = Datanode(service.config.listen, "dn-1")
            await node.register()
            await asyncio.sleep(0.2)  # some ticks
            kinds = [e.kind async for e in AdminClient(routes.calls).events()]
            assert kinds == ["bootstrap", "register"]
            assert (await node.beat()).HasField("grant")
            await node.close()

    asyncio.run(story())


def test_a_loss_is_accepted_by_name(tmp_path: Path) -> None:
    """Admin.AcceptLoss: refused while nothing is damaged; a dry run changes nothing; then the order carries it."""

    async def story() -> None:
        async with solo(tmp_path) as (service, routes), datanode(service.config.listen, "dn-1") as node:
            admin = AdminClient(routes.calls, who="ann")
            table = await routes.create_table("cpu", CPU)
            region_id = table.region_ids[0]
            with pytest.raises(Refused, match="no loss to accept"):
                await admin.accept_loss(region_id)
            with pytest.raises(Refused, match="no region"):
                await admin.accept_loss(99)
            orders = node.orders()
            epoch = (await orders.read()).orders[0].epoch
            damaged = nodes_pb2.RegionReport(region_id=region_id, epoch=epoch)
            damaged.failed.kind, damaged.failed.message, damaged.failed.read_only = "damaged", "1 place, at 7", True
            await node.nodes.Report(nodes_pb2.ReportRequest(sender=node.sender, regions=[damaged]), timeout=20)
            plan = await admin.accept_loss(region_id, dry_run=True)
            assert not plan.committed and "1 place, at 7" in plan.summary
            assert (await admin.accept_loss(region_id, request_id="once")).committed
            assert (await admin.accept_loss(region_id, request_id="once")).committed, "a repeat is answered the same"
            while not (told := await orders.read()).orders or told.orders[0].epoch == epoch:
                pass
            assert told.orders[0].accept_loss and told.orders[0].kind == nodes_pb2.OPEN
            orders.cancel()

    asyncio.run(story())
