"""Mutual TLS: only certificates of the cluster's authority get in, and only under the names they carry."""

import asyncio
from pathlib import Path

import grpc
import msgspec
import pytest

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel
from protos.metasrv.v1 import replica_pb2
from protos.metasrv.v1.nodes_pb2_grpc import NodesStub
from protos.metasrv.v1.replica_pb2_grpc import ReplicasStub
from tests.authority import Authority
from tests.integration.metasrv.world import CLUSTER, Datanode, configs, eventually, replica


def _with(node: Datanode, address: str, tls: TlsConfig | None) -> Datanode:
    node.channel = aio_channel(address, tls)
    node.nodes = NodesStub(node.channel)
    return node


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
