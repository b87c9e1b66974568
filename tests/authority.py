"""A certificate authority of a test's own."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from groundwork.adapters.config import TlsConfig


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
