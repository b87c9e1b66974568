"""Mutual TLS: only certificates of the cluster's authority get in, and only under the names they carry."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel
from groundwork.adapters.rpc_errors import typed
from groundwork.core.errors import PermissionDenied
from metasrv.adapters.roles import ROLES
from protos.metasrv.v1 import admin_pb2, catalog_pb2, heartbeat_pb2, nodes_pb2, replica_pb2, routes_pb2
from protos.metasrv.v1.admin_pb2_grpc import AdminStub
from protos.metasrv.v1.catalog_pb2_grpc import CatalogStub
from protos.metasrv.v1.nodes_pb2_grpc import NodesStub
from protos.metasrv.v1.replica_pb2_grpc import ReplicasStub
from protos.raft.v1 import raft_pb2
from tests.authority import Authority
from tests.integration.metasrv.world import CLUSTER, Datanode, configs, eventually, replica


def _with(node: Datanode, address: str, tls: TlsConfig | None) -> Datanode:
    node.channel = aio_channel(address, tls)
    node.nodes = NodesStub(node.channel)
    return node


async def _changes_nothing_but_itself(node: Datanode, address: str, authority: Authority) -> None:
    """A registered node's certificate asks for no change but its own drain; an operator's may."""
    admin, catalog, sender = AdminStub(node.channel), CatalogStub(node.channel), node.sender
    changes: list[tuple[Any, Any]] = [
        (admin.Migrate, admin_pb2.MigrateRequest(sender=sender, region_ids=[1])),
        (admin.Drain, admin_pb2.DrainRequest(sender=sender, node_id="dn-2")),
        (admin.Pause, admin_pb2.PauseRequest(sender=sender, scope="cluster", for_ms=1)),
        (admin.Resume, admin_pb2.ResumeRequest(sender=sender, scope="cluster")),
        (admin.Cancel, admin_pb2.CancelRequest(sender=sender, procedure_id=1)),
        (admin.TransferLeader, admin_pb2.TransferLeaderRequest(sender=sender)),
        (admin.AcceptLoss, admin_pb2.AcceptLossRequest(sender=sender, region_id=1)),
        (catalog.CreateTable, catalog_pb2.CreateTableRequest(sender=sender, name="t")),
        (catalog.WidenTable, catalog_pb2.WidenTableRequest(sender=sender, name="t")),
        (catalog.DropTable, catalog_pb2.DropTableRequest(sender=sender, name="t")),
    ]
    for call, request in changes:
        with pytest.raises(grpc.aio.AioRpcError, match="use an operator's certificate") as refused:
            await call(request)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert isinstance(typed(refused.value), PermissionDenied)
    second = _with(Datanode(address, "dn-2", folder_id="second"), address, authority.issue("dn-2"))
    await second.register()
    await second.beat()
    assert (await admin.Drain(admin_pb2.DrainRequest(sender=sender, node_id="dn-1"))).committed
    assert (await admin.Status(admin_pb2.StatusRequest(sender=sender))).nodes[0].node_id == "dn-1"
    operator = _with(Datanode(address, "dn-1"), address, authority.issue("operator"))
    undo = admin_pb2.DrainRequest(sender=operator.sender, node_id="dn-1", undo=True)
    assert (await AdminStub(operator.channel).Drain(undo)).committed
    await second.close()
    await operator.close()


def test_every_method_has_its_roles() -> None:
    """The table names every method of every service that a replica serves, and nothing else."""
    served = set()
    for file in (admin_pb2, catalog_pb2, heartbeat_pb2, nodes_pb2, replica_pb2, routes_pb2, raft_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            served |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    wide = {key for key in ROLES if key.endswith("/")}
    assert all(key in served for key in ROLES.keys() - wide)
    assert [m for m in served if m not in ROLES and m[: m.rfind("/") + 1] not in wide] == []


def test_a_node_speaks_only_for_itself(tmp_path: Path) -> None:
    """A datanode's certificate lets it in under its own node id; not as another, not as a replica, not bare."""

    async def story() -> None:
        authority = Authority(tmp_path)
        mine = authority.issue("dn-1")
        config = msgspec.structs.replace(configs(tmp_path, 1)[0], tls=authority.issue("metasrv-1"))
        async with replica(config) as service:

            async def begun() -> str:
                return service.machine.state.cluster_id

            await eventually(begun)
            good = _with(Datanode(config.listen, "dn-1"), config.listen, mine)
            await good.register()
            assert (await good.beat()).HasField("grant")
            posing = _with(Datanode(config.listen, "dn-2"), config.listen, mine)
            with pytest.raises(grpc.aio.AioRpcError, match="is not that of the node dn-2"):
                await posing.register()
            with pytest.raises(grpc.aio.AioRpcError, match="is not that of the node dn-2"):
                await posing.beat()
            heard = ReplicasStub(good.channel).Heard
            with pytest.raises(grpc.aio.AioRpcError, match="is not that of the replica"):
                await heard(replica_pb2.HeardRequest(cluster_id=CLUSTER))
            await _changes_nothing_but_itself(good, config.listen, authority)
            plain = Datanode(config.listen, "dn-1")
            with pytest.raises(grpc.aio.AioRpcError):
                await plain.register(wait=False)
            (tmp_path / "foreign").mkdir()
            stranger = Authority(tmp_path / "foreign").issue("dn-1")
            crossed = TlsConfig(stranger.certificate, stranger.key, mine.authority)
            forged = _with(Datanode(config.listen, "dn-1"), config.listen, crossed)
            with pytest.raises(grpc.aio.AioRpcError):
                await forged.register(wait=False)
            for node in (good, posing, plain, forged):
                await node.close()

    asyncio.run(story())
