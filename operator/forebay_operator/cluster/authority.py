"""Certificates: made, and read back as values. Keys appear in no text of ours.

An authority signs the certificates of roles; such a one names its role, ``<role>.<release>``, at both ends of a call.
May not live here: when to make them, and where they are kept.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_SECONDS = 3650 * 86400.0
ROLE_SECONDS = 90 * 86400.0
BACKDATE_SECONDS = 300.0
"""Certificates are valid from that long before they are made: clocks differ."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Paper:
    """What a certificate says. Times in unix seconds; ``key`` names its public key, ``issuer`` its signer's."""

    key: str
    issuer: str
    names: frozenset[str]
    begins: float
    ends: float
    pem: bytes = field(repr=False)

    @property
    def made(self) -> float:
        return self.begins + BACKDATE_SECONDS

    @property
    def due(self) -> float:
        """When to renew it: at two thirds of its life."""
        return self.begins + (self.ends - self.begins) * 2 / 3


def make_authority(release: str, now: float) -> Pair:
    """A new one, with a name of its own: two of them may be trusted at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _name(release, f"Forebay authority {serial:x}"[:64])
    builder = (
        _builder(name, name, key, serial, now, now + AUTHORITY_SECONDS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return _signed(builder, key, key)


def issue(authority: Pair, role: str, release: str, now: float) -> Pair:
    """A new certificate of a role, with a new key. Raises ValueError when ``authority`` is none."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = _private(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + ROLE_SECONDS, issuer.not_valid_after_utc.timestamp())
    subject_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    both_ways = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        _builder(_name(release, role), issuer.subject, key, x509.random_serial_number(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(both_ways, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{role}.{release}")]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key), critical=False)
    )
    return _signed(builder, key, signer)


def read(pem: bytes) -> tuple[Paper, ...]:
    """The certificates that stand there, one after another; none when it is something else."""
    try:
        return tuple(map(_paper, x509.load_pem_x509_certificates(pem)))
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        return ()


def read_pair(pair: Pair) -> Paper | None:
    """The first certificate there; None when there is none that the key belongs to, or the key is of another kind than
    ours."""
    try:
        _private(pair.key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return next(iter(read(pair.certificate)), None) if fits(pair) else None


def fits(pair: Pair) -> bool:
    """Whether the key, of any kind, is that of the first certificate."""
    try:
        public = x509.load_pem_x509_certificate(pair.certificate).public_key()
        return serialization.load_pem_private_key(pair.key, None).public_key() == public
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _paper(certificate: x509.Certificate) -> Paper:
    extensions = certificate.extensions
    own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    issuer, names = own, frozenset[str]()
    for extension in extensions:
        if isinstance(extension.value, x509.AuthorityKeyIdentifier):
            issuer = (extension.value.key_identifier or b"").hex()
        elif isinstance(extension.value, x509.SubjectAlternativeName):
            names = frozenset(extension.value.get_values_for_type(x509.DNSName))
    return Paper(
        key=own,
        issuer=issuer,
        names=names,
        begins=certificate.not_valid_before_utc.timestamp(),
        ends=certificate.not_valid_after_utc.timestamp(),
        pem=certificate.public_bytes(serialization.Encoding.PEM),
    )


def _name(release: str, common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, release), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int, now: float, ends: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_time(now - BACKDATE_SECONDS))
        .not_valid_after(_time(ends))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Pair:
    certificate = builder.sign(signer, hashes.SHA256())
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key on an elliptic curve, as ours are")
    return key


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
