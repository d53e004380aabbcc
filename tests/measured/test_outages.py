"""Prometheus itself goes: killed, wiped, with nobody to scrape, or behind credentials and TLS of its own."""

from __future__ import annotations

import datetime
import ipaddress
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forebay_operator.measurements import BLIND
from measured.conftest import WINDOW, Bench, until_blind, until_known, until_seen
from measured.gateways import Gateways
from prometheus_process import PrometheusProcess, needs_prometheus

pytestmark = needs_prometheus

PASSWORD = "open sesame"
HASHED = "$2b$04$5XPmxbchJLYF0/6MaBVrxebJdHgbBxg5Nu7FLUleAhaN.qRXCAVvy"


async def test_killed_and_back(fragile: Bench) -> None:
    """What it did not scrape meanwhile is not made up."""
    fragile.gateways.requests = {"f": 2}
    key = fragile.apply("f")
    async with fragile.measuring(url=fragile.prometheus.url) as measurements:
        await until_known(measurements, key)
        fragile.prometheus.kill()
        await until_blind(measurements, key, "PrometheusUnreachable")
        fragile.prometheus.start()
        await until_blind(measurements, key, "NotYetKnown")
        assert (await until_known(measurements, key)).stable == 4


async def test_back_with_an_empty_storage(fragile: Bench) -> None:
    fragile.gateways.requests = {"f": 2}
    key = fragile.apply("f")
    async with fragile.measuring(url=fragile.prometheus.url) as measurements:
        await until_known(measurements, key)
        fragile.prometheus.kill()
        fragile.prometheus.wipe()
        await until_blind(measurements, key, "PrometheusUnreachable")
        fragile.prometheus.start()
        seen = await until_seen(measurements, key, lambda seen: seen.trouble and seen.trouble[0] == "NotYetKnown")
        assert seen.load is not None  # good for scaling up
        assert seen.load.known < WINDOW
        assert (await until_known(measurements, key)).stable == 4


async def test_away_for_us_alone(fragile: Bench) -> None:
    """It scraped on: with the first answer the whole window is known."""
    fragile.gateways.requests = {"f": 2}
    key = fragile.apply("f")
    async with fragile.measuring() as measurements:
        await until_known(measurements, key)
        await fragile.proxy.close()
        await until_blind(measurements, key, "PrometheusUnreachable")
        await fragile.proxy.open()
        seen = await until_seen(measurements, key, lambda seen: seen.load)
        assert seen.trouble is None
        assert seen.load is not None
        assert (seen.load.stable, seen.load.known) == (4, WINDOW)


async def test_nobody_is_scraped(fragile: Bench) -> None:
    """First one gateway is missing, then all are: that is not the same as no requests."""
    fragile.gateways.requests = {"f": 2}
    key, unheard = fragile.apply("f"), fragile.apply("unheard")
    async with fragile.measuring() as measurements:
        await until_known(measurements, key)
        assert (await until_known(measurements, unheard)).stable == 0
        fragile.prometheus.scrape(fragile.gateways.ports[0])
        assert "1 of 2 gateways" in await until_blind(measurements, key, "PartialSamples")
        fragile.prometheus.scrape()
        await until_blind(measurements, key, "NoSamples")
        await until_blind(measurements, unheard, "NoSamples")
        fragile.prometheus.scrape(*fragile.gateways.ports)
        await until_known(measurements, key)


async def test_what_is_stored_of_fewer_gateways_than_there_are_is_no_load(fragile: Bench) -> None:
    fragile.gateways.requests = {"f": 2}
    key = fragile.apply("f")
    fragile.prometheus.scrape(fragile.gateways.ports[0])
    fragile.connected = 1
    async with fragile.measuring() as measurements:
        assert (await until_known(measurements, key)).stable == 2
    fragile.prometheus.scrape(*fragile.gateways.ports)
    fragile.connected = 2
    async with fragile.measuring() as measurements:
        assert (await until_known(measurements, key)).stable == 4


async def test_samples_grow_old_when_it_dies_and_comes_back_without_targets(fragile: Bench) -> None:
    """It goes on giving the last ones for five minutes."""
    fragile.gateways.requests = {"f": 2}
    key = fragile.apply("f")
    plain = fragile.apply(
        "plain",
        prometheus={"query": f'forebay_inflight{{instance="127.0.0.1:{fragile.gateways.ports[0]}"}}', "target": 1},
    )
    async with fragile.measuring(url=fragile.prometheus.url) as measurements:
        await until_known(measurements, key)
        await until_known(measurements, plain)
        fragile.prometheus.kill()
        fragile.prometheus.scrape()
        fragile.prometheus.start()
        await until_blind(measurements, key, "StaleSamples")
        await until_blind(measurements, plain, "StaleSamples")
    (blind,) = BLIND.collect()
    assert blind.samples == []  # who does not lead any more says nothing of it


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Self-signed, for 127.0.0.1: tls.crt and tls.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prometheus")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


async def test_its_own_credentials_and_certificate(
    steady: tuple[PrometheusProcess, Gateways], bench: Bench, certificate: Path, tmp_path: Path
) -> None:
    """As `web.config` of Prometheus knows them; files that are put right are followed."""
    guarded = PrometheusProcess(
        tmp_path / "guarded",
        {
            "basic_auth_users": {"forebay": HASHED},
            "tls_server_config": {
                "cert_file": str(certificate / "tls.crt"),
                "key_file": str(certificate / "tls.key"),
            },
        },
    )
    guarded.scrape(*bench.gateways.ports)
    key = bench.apply("f")
    ca, user, password = tmp_path / "ca", tmp_path / "user", tmp_path / "password"
    user.write_text("forebay\n")
    password.write_text("close sesame\n")
    guarded.start()
    try:
        async with bench.measuring(
            url=guarded.url, ca_file=ca, username_file=user, password_file=password
        ) as measurements:
            assert str(ca) in await until_blind(measurements, key, "PrometheusUnreachable")
            ca.write_text("no certificate")
            await until_seen(measurements, key, lambda seen: seen.trouble and "in PEM" in seen.trouble[1])
            ca.write_bytes((certificate / "tls.crt").read_bytes())
            message = await until_blind(measurements, key, "PrometheusUnauthorized")
            assert "sesame" not in message
            password.write_text(PASSWORD)
            await until_known(measurements, key)
        async with bench.measuring(url=guarded.url, username_file=user, password_file=password) as measurements:
            assert "certificate" in (await until_blind(measurements, key, "PrometheusUnreachable")).lower()
            assert measurements.seen(key, time.time()).load is None
    finally:
        guarded.kill()
