"""The cluster's own certificates and kubeconfig files, made at every start and good for a day."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=1)
# Clocks of one machine agree; a certificate of this very second may still be refused.
SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class Subject:
    """Whom a certificate names. ``group``: what Kubernetes authorises; ``server``: it may also serve, as ``names``
    (host names or addresses)."""

    name: str
    group: str = ""
    names: Sequence[str] = ()

    @property
    def distinguished(self) -> x509.Name:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, self.name)]
        if self.group:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.group))
        return x509.Name(attributes)


class Authority:
    """A certificate authority that keeps what it signs in one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / f"{name}.crt"
        self._subject = Subject(f"testbed-{name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = _usage(key_cert_sign=True, crl_sign=True)  # Python 3.13 refuses an authority without it
        builder = _builder(self._subject, self._subject, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._keep(name, self._key, builder.add_extension(usage, critical=True))

    def sign(self, file: str, subject: Subject) -> None:
        """Write ``file``.crt and ``file``.key: for serving if the subject has names, for calling if it has none."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if subject.names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(subject, self._subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if subject.names:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in subject.names])
            builder = builder.add_extension(alternatives, critical=False)
        self._keep(file, key, builder)

    def _keep(self, file: str, key: ec.EllipticCurvePrivateKey, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        (self.folder / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(self.folder / f"{file}.key", key)


def token_keys(folder: Path) -> None:
    """The pair that signs service-account tokens: sa.key and sa.pub."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(folder / "sa.key", key)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(public)


def kubeconfig(path: Path, authority: Authority, file: str, server: str) -> Path:
    """Write a kubeconfig whose user is the certificate ``file``."""
    user = {"client-certificate": f"{authority.folder}/{file}.crt", "client-key": f"{authority.folder}/{file}.key"}
    cluster = {"server": server, "certificate-authority": str(authority.file)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": cluster}],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": file}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path


def _builder(subject: Subject, issuer: Subject, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer.distinguished, subject.distinguished, key, x509.random_serial_number())
    return builder.not_valid_before(now - SLACK).not_valid_after(now + VALID)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
