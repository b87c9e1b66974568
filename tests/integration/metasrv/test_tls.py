"""Mutual TLS: only certificates of the cluster's authority get in, and only under the names they carry."""

import asyncio
import datetime
import ipaddress
from pathlib import Path

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import aio_channel
from protos.metasrv.v1 import replica_pb2
from protos.metasrv.v1.nodes_pb2_grpc import NodesStub
from protos.metasrv.v1.replica_pb2_grpc import ReplicasStub
from tests.integration.metasrv.world import CLUSTER, Datanode, configs, eventually, replica


class Authority:
    """Signs certificates for node ids, good for a day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None), None)
        self._pem = folder / "authority.pem"
        self._pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, node_id: str) -> TlsConfig:
        """A certificate and key for one node id on this machine."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(node_id), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
        certificate = self._sign(name, key.public_key(), x509.BasicConstraints(False, None), names)
        pem, secret = self._folder / f"{node_id}.pem", self._folder / f"{node_id}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TlsConfig(str(pem), str(secret), str(self._pem))

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        constraints: x509.BasicConstraints,
        names: x509.SubjectAlternativeName | None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(constraints, critical=True)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


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
                await plain.register()
            (tmp_path / "foreign").mkdir()
            stranger = Authority(tmp_path / "foreign").issue("dn-1")
            crossed = TlsConfig(stranger.certificate, stranger.key, mine.authority)
            forged = _with(Datanode(config.listen, "dn-1"), config.listen, crossed)
            with pytest.raises(grpc.aio.AioRpcError):
                await forged.register()
            for node in (good, posing, plain, forged):
                await node.close()

    asyncio.run(story())
