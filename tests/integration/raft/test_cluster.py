"""Three replicas over real streams and disks: restarts, lost disks, moved addresses, transfers, certificates."""

import asyncio
import datetime
import ipaddress
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import Damaged
from metasrv.adapters.raft.journal import Standing
from tests.integration.raft.cluster import NAMES, Cluster, run, until


def test_t23_all_replicas_restart_at_once(tmp_path: Path) -> None:
    """T23: several times in a row, each time with everything that was acknowledged, and a leader by itself."""

    async def story(cluster: Cluster) -> None:
        expected: list[bytes] = []
        for round_ in range(5):
            await cluster.start_all()
            await cluster.leader()
            for number in range(20):
                expected.append(b"%d-%d" % (round_, number))
                await cluster.propose(expected[-1])
            assert await cluster.same_everywhere() == expected
            await cluster.stop_all()

    run(tmp_path, story)


def test_t14_addresses_come_from_the_configuration_only(tmp_path: Path) -> None:
    """T13, T14: every replica comes back at another address, behind a snapshot, and nobody looks for the old ones."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await asyncio.gather(*(cluster.propose(b"%d" % number) for number in range(100)))
        await until(lambda: (tmp_path / leader.config.node_id / "snapshot").exists(), "a snapshot")
        await cluster.stop_all()
        before = set(cluster.peers.values())
        await cluster.start_all()
        assert before.isdisjoint(cluster.peers.values()) or before != set(cluster.peers.values())
        leader = await cluster.leader()
        await cluster.propose(b"after")
        assert len(await cluster.same_everywhere()) == 101

    run(tmp_path, story, journal_entries_max=40, journal_tail_entries=0)


def test_a_lagging_replica_is_given_a_snapshot(tmp_path: Path) -> None:
    """A replica that missed more than the journal keeps is caught up in chunks, while the others go on."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        absent = next(name for name in NAMES if name != leader.config.node_id)
        await cluster.stop(absent)
        await asyncio.gather(*(cluster.propose(b"%d " % number + bytes(300)) for number in range(400)))
        cluster.listen([absent])
        for node in cluster.nodes.values():
            node.config.peers[absent] = cluster.peers[absent]
        await cluster.stop(leader.config.node_id)
        cluster.listen([leader.config.node_id])
        await cluster.start(absent)
        await cluster.start(leader.config.node_id)
        await cluster.propose(b"last")
        assert len(await cluster.same_everywhere()) == 401

    run(tmp_path, story, journal_entries_max=50, journal_tail_entries=0, chunk_bytes=4096)


def test_a_lost_disk_and_a_damaged_one_rejoin(tmp_path: Path) -> None:
    """An empty disk, and a damaged one under --rejoin, are filled by the others, and count again afterwards."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        await cluster.leader()
        for number in range(20):
            await cluster.propose(b"%d" % number)
        await cluster.same_everywhere()
        await cluster.stop_all()
        shutil.rmtree(tmp_path / "metasrv-2")
        await cluster.start_all()
        await until(lambda: _standing(cluster, "metasrv-2") is Standing.JOINED, "metasrv-2 joined")
        await cluster.propose(b"more")
        assert len(await cluster.same_everywhere()) == 21
        await cluster.stop_all()
        journal = tmp_path / "metasrv-3" / "journal"
        journal.write_bytes(journal.read_bytes()[:80] + b"?" + journal.read_bytes()[81:])
        cluster.listen()
        with pytest.raises(Damaged, match="--rejoin"):
            await cluster.start("metasrv-3")
        await cluster.servers["metasrv-3"].stop(None)
        cluster.listen(["metasrv-3"])
        await cluster.start("metasrv-3", rejoin=True)
        for name in ("metasrv-1", "metasrv-2"):
            await cluster.start(name)
        await until(lambda: _standing(cluster, "metasrv-3") is Standing.JOINED, "metasrv-3 joined")
        assert len(await cluster.same_everywhere()) == 21

    run(tmp_path, story)


def _standing(cluster: Cluster, name: str) -> Standing | None:
    replica = cluster.nodes[name]._replica
    return replica.journal.standing if replica is not None else None


def test_leadership_is_handed_over(tmp_path: Path) -> None:
    """transfer() ends with the named follower leading, under load, and nothing acknowledged is lost."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        acked = [b"%d" % number for number in range(30)]
        for command in acked:
            await cluster.propose(command)
        await cluster.hand_over()
        await cluster.propose(b"after")
        assert await cluster.same_everywhere() == [*acked, b"after"]

    run(tmp_path, story)


def test_two_go_on_after_a_leader_handed_over_and_left(tmp_path: Path) -> None:
    """P5: the first leader of a new cluster hands over and stops at once; the others elect one that commits."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        await cluster.propose(b"before")
        await cluster.stop((await cluster.leader()).config.node_id)
        await cluster.propose(b"after")
        assert await cluster.same_everywhere() == [b"before", b"after"]

    run(tmp_path, story)


def test_a_failed_sync_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsync error reaches `fatal`, which by default ends the process; the others go on without it."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        victim = next(name for name in NAMES if name != leader.config.node_id)
        replica = cluster.nodes[victim]._replica
        assert replica is not None
        disk = replica.journal._disk
        monkeypatch.setattr(disk, "sync", _broken)
        await cluster.propose(b"x")
        await until(lambda: cluster.fatal, "the end")
        assert "the disk failed" in cluster.fatal[0]
        assert not cluster.nodes[victim].leadership().is_leader
        await cluster.propose(b"y")
        replica.close()

    run(tmp_path, story)


def test_a_defect_in_a_dialler_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would see that a replica does not speak to another any more: the defect reaches `fatal` instead."""

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        await cluster.propose(b"x")
        victim = cluster.nodes["metasrv-3"]
        replica = victim._replica
        assert replica is not None
        monkeypatch.setattr(victim._network, "_frame", _defective)
        await until(lambda: cluster.fatal, "the end")
        assert "ValueError" in cluster.fatal[0]
        assert not victim.leadership().is_leader
        await cluster.propose(b"y")
        replica.close()

    run(tmp_path, story)


def _defective(*_: object) -> object:
    raise ValueError("a defect")


def _broken(descriptor: int) -> None:
    raise OSError(5, "Input/output error")


# ---------------------------------------------------------------- certificates


class Authority:
    """Signs certificates for replicas by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        self._write("authority", self._build(self._name, self._key).add_extension(constraint, critical=True))

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def _write(self, name: str, builder: x509.CertificateBuilder) -> str:
        path = self._folder / f"{name}.pem"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return str(path)

    def issue(self, name: str) -> TlsConfig:
        """A certificate whose alternative name is the replica's id."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._build(subject, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = self._write(name, builder)
        key_path = self._folder / f"{name}.key"
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TlsConfig(certificate=certificate, key=str(key_path), authority=str(self._folder / "authority.pem"))


def test_replicas_speak_mutual_tls(tmp_path: Path) -> None:
    """With certificates that name the replicas, a cluster works as without."""
    authority = Authority(tmp_path)

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        await cluster.propose(b"sealed in transit")
        assert await cluster.same_everywhere() == [b"sealed in transit"]

    run(tmp_path, story, tls={name: authority.issue(name) for name in NAMES})


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    """A valid certificate of the same authority, but of a datanode, makes nobody a replica, in either direction."""
    authority = Authority(tmp_path)
    tls = {name: authority.issue(name) for name in NAMES}

    async def story(cluster: Cluster) -> None:
        await cluster.start_all()
        await cluster.propose(b"x")
        await cluster.same_everywhere()
        await cluster.stop_all()
        tls["metasrv-3"] = authority.issue("dn-1")
        await cluster.start_all()
        await cluster.propose(b"y")
        assert await cluster.same_everywhere_of("metasrv-1", "metasrv-2") == [b"x", b"y"]
        assert cluster.machines["metasrv-3"].entries == [], "it hears nobody, so it does not know what is committed"
        assert not cluster.nodes["metasrv-3"].leadership().is_leader
        assert cluster.nodes["metasrv-3"].leadership().leader_id is None

    run(tmp_path, story, tls=tls)
