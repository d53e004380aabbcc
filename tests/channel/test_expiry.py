"""Until when an identity is good: as a library for certificates reads it, and nothing for what is none."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from channel.authority import Authority
from forebay_channel import InvalidIdentity, Role, expiry
from forebay_channel.identity import Files
from forebay_process.expiry import Expiry

KEY = ec.generate_private_key(ec.SECP256R1())
ENDS = [
    datetime.datetime(2026, 11, 21, 18, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC),  # from then on written otherwise
    datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(1999, 6, 1, tzinfo=datetime.UTC),
]


def pem(ends: datetime.datetime, organization: str = "forebay") -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def files(certificate: bytes, authority: bytes) -> Files:
    return Files(certificate, b"", authority, ())


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_it_is_read(ends: datetime.datetime) -> None:
    assert expiry(files(pem(ends), pem(ENDS[3]))) == ends.timestamp()
    assert expiry(files(pem(ENDS[3], "long" * 15), pem(ends))) == ends.timestamp()


def test_what_comes_first_counts() -> None:
    """Of several authorities that are trusted, one is on its way out; of a chain, the first one is ours."""
    assert expiry(files(pem(ENDS[2]), pem(ENDS[0]) + pem(ENDS[1]))) == ENDS[1].timestamp()
    assert expiry(files(pem(ENDS[1]) + pem(ENDS[0]), pem(ENDS[2]))) == ENDS[1].timestamp()


WHOLE = pem(ENDS[0])


@pytest.mark.parametrize(
    "text",
    [b"", b"no certificate", WHOLE[:200] + WHOLE[-30:], b"-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----\n"],
)
def test_what_is_none_is_said(text: bytes) -> None:
    with pytest.raises(InvalidIdentity, match=r"tls\.crt"):
        expiry(files(text, WHOLE))
    with pytest.raises(InvalidIdentity, match=r"ca\.crt"):
        expiry(files(WHOLE, text))


def test_it_is_shown_as_long_as_there_is_one(tmp_path: Path) -> None:
    """Of the files that are there now."""
    authority = Authority()
    identity = authority.identity(tmp_path, Role.GATEWAY)
    expected = x509.load_pem_x509_certificate((tmp_path / "tls.crt").read_bytes()).not_valid_after_utc.timestamp()
    shown = Expiry(identity)
    (metric,) = shown.collect()
    assert metric.name == "forebay_certificate_expiry_timestamp_seconds"
    assert [sample.value for sample in metric.samples] == [expected]
    (tmp_path / "tls.crt").write_bytes(pem(ENDS[0]))
    (metric,) = shown.collect()
    assert [sample.value for sample in metric.samples] == [ENDS[0].timestamp()]
    (tmp_path / "tls.crt").unlink()
    assert list(shown.collect()) == []
