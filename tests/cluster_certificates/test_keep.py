"""The leader's certificates: complete, renewed in time, trusted by all at every moment, never mixed by two leaders."""

from __future__ import annotations

import asyncio
import base64
import logging
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509

from cluster_certificates.secrets import NAMESPACE, RELEASE, Secrets
from forebay_channel import Role
from forebay_operator.cluster import certificates
from forebay_operator.cluster.api import Api, Conflict
from forebay_operator.cluster.authority import AUTHORITY_SECONDS, ROLE_SECONDS, Pair, read, read_pair
from forebay_operator.cluster.renewal import SPREAD_SECONDS

NOW = float(int(time.time()))
DAY = 86400.0
ROLES = [f"{RELEASE}-{role}-tls" for role in Role]
AUTHORITY = f"{RELEASE}-ca"


async def keep(secrets: Secrets, now: float) -> float:
    return await certificates.keep(cast("Api", secrets), NAMESPACE, RELEASE, now)


def pair(secrets: Secrets, name: str) -> Pair:
    data = secrets.data(name)
    return Pair(data["tls.crt"], data["tls.key"])


def verified(secrets: Secrets, shown: bytes, trusted: bytes, folder: Path, now: float, purpose: str) -> None:
    """openssl's opinion at ``now``."""
    (folder / "shown.pem").write_bytes(shown)
    (folder / "trusted.pem").write_bytes(trusted)
    ran = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(int(now)),
         "-CAfile", folder / "trusted.pem", folder / "shown.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def all_trust_all(secrets: Secrets, folder: Path, now: float) -> None:
    for shown in ROLES:
        for trusting in ROLES:
            for purpose in ("sslserver", "sslclient"):
                crt = secrets.data(shown)["tls.crt"]
                verified(secrets, crt, secrets.data(trusting)["ca.crt"], folder, now, purpose)


async def test_from_nothing(tmp_path: Path) -> None:
    secrets = Secrets()
    look = await keep(secrets, NOW)
    assert sorted(secrets.objects) == sorted([AUTHORITY, *ROLES])
    assert {each["type"] for each in secrets.objects.values()} == {"kubernetes.io/tls"}
    all_trust_all(secrets, tmp_path, NOW)
    for role in Role:
        certificate = x509.load_pem_x509_certificate(pair(secrets, f"{RELEASE}-{role}-tls").certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"{role}.{RELEASE}"]
        assert certificate.extensions.get_extension_for_class(x509.KeyUsage).critical
    authority = x509.load_pem_x509_certificate(pair(secrets, AUTHORITY).certificate)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert look == pytest.approx(NOW + ROLE_SECONDS * 2 / 3, abs=DAY)


async def test_nothing_is_written_that_is_not_due() -> None:
    secrets = Secrets()
    await keep(secrets, NOW)
    writes = len(secrets.writes)
    assert writes == 4
    look = await keep(secrets, NOW + 1)
    assert look == pytest.approx(NOW + ROLE_SECONDS * 2 / 3, abs=DAY)
    await keep(secrets, look - 1)
    assert len(secrets.writes) == writes


async def test_roles_are_renewed_at_two_thirds(tmp_path: Path) -> None:
    secrets = Secrets()
    await keep(secrets, NOW)
    before = {name: secrets.data(name) for name in (AUTHORITY, *ROLES)}
    later = await keep(secrets, NOW + 1) + 1
    await keep(secrets, later)
    assert secrets.data(AUTHORITY) == before[AUTHORITY]
    assert all(secrets.data(name)["tls.key"] != before[name]["tls.key"] for name in ROLES)
    all_trust_all(secrets, tmp_path, later)


async def test_a_new_authority_is_trusted_before_it_is_shown(tmp_path: Path) -> None:
    """A pod may see any of the Secrets as it was a moment before: it trusts what is shown, and is trusted."""
    secrets = Secrets()
    await keep(secrets, NOW)
    old = read(secrets.data(AUTHORITY)["tls.crt"])[0]
    now, seen = old.due - 10 * DAY, []
    await keep(secrets, now)
    assert len(read(secrets.data(ROLES[0])["ca.crt"])) == 1
    held = {name: secrets.data(name) for name in ROLES}
    end = old.due + 3 * SPREAD_SECONDS
    while now < end:
        now = min(max(await keep(secrets, now), now + 1), end)
        await keep(secrets, now)
        fresh = {name: secrets.data(name) for name in ROLES}
        for name in ROLES:
            for other in ROLES:
                verified(secrets, fresh[name]["tls.crt"], held[other]["ca.crt"], tmp_path, now, "sslserver")
                if read(held[name]["tls.crt"])[0].ends > now:
                    verified(secrets, held[name]["tls.crt"], fresh[other]["ca.crt"], tmp_path, now, "sslclient")
        held = fresh
        seen.append(len(read(secrets.data(ROLES[0])["ca.crt"])))
    assert max(seen) == 2
    assert seen[-1] == 1
    new = read(secrets.data(AUTHORITY)["tls.crt"])[0]
    assert new.key != old.key
    assert {paper.key for name in ROLES for paper in read(secrets.data(name)["ca.crt"])} == {new.key}
    assert new.ends == pytest.approx(old.due + AUTHORITY_SECONDS, abs=DAY)


@pytest.mark.parametrize("name", [AUTHORITY, *ROLES])
@pytest.mark.parametrize("harm", ["deleted", "emptied", "no base64", "another's key"])
async def test_what_is_spoilt_is_made_anew(tmp_path: Path, name: str, harm: str) -> None:
    secrets = Secrets()
    await keep(secrets, NOW)
    data = secrets.objects[name]["data"]
    match harm:
        case "deleted":
            del secrets.objects[name]
        case "emptied":
            data |= {"tls.crt": "", "tls.key": ""}
        case "no base64":
            data["tls.crt"] = "%%"
        case _:
            other = AUTHORITY if name != AUTHORITY else ROLES[0]
            data["tls.key"] = base64.b64encode(secrets.data(other)["tls.key"]).decode()
    await keep(secrets, NOW + 60)
    all_trust_all(secrets, tmp_path, NOW + 60)
    await keep(secrets, NOW + 60 + SPREAD_SECONDS + 1)
    all_trust_all(secrets, tmp_path, NOW + 60 + SPREAD_SECONDS + 1)
    assert all(read_pair(pair(secrets, each)) for each in (AUTHORITY, *ROLES))


async def test_a_certificate_for_another_name_is_replaced() -> None:
    secrets = Secrets()
    await keep(secrets, NOW)
    secrets.objects[ROLES[0]]["data"] = dict(secrets.objects[ROLES[1]]["data"])
    await keep(secrets, NOW + 60)
    paper = read_pair(pair(secrets, ROLES[0]))
    assert paper is not None
    assert paper.names == {f"operator.{RELEASE}"}


async def test_what_others_put_there_stays() -> None:
    secrets = Secrets()
    await keep(secrets, NOW)
    secrets.objects[ROLES[0]]["metadata"]["labels"]["team"] = "ours"
    secrets.objects[ROLES[0]]["data"] |= {"tls.crt": "", "more": "eA=="}
    await keep(secrets, NOW + 60)
    assert secrets.objects[ROLES[0]]["metadata"]["labels"]["team"] == "ours"
    assert secrets.data(ROLES[0])["more"] == b"x"


@pytest.mark.parametrize("turn", range(8))
async def test_two_leaders_never_mix_keys(tmp_path: Path, turn: int) -> None:
    """The other one does all its work before one of our writes."""
    secrets, count = Secrets(), iter(range(100))

    async def meddle(verb: str, name: str) -> None:
        if next(count) == turn:
            await keep(secrets, NOW)

    secrets.meddle = meddle
    await keep(secrets, NOW)
    for name in (AUTHORITY, *ROLES):
        assert read_pair(pair(secrets, name)) is not None
    all_trust_all(secrets, tmp_path, NOW)


@pytest.mark.parametrize("turn", range(4))
async def test_an_old_leader_within_a_change_of_authority(tmp_path: Path, turn: int) -> None:
    secrets, count = Secrets(), iter(range(100))
    await keep(secrets, NOW)
    due = read(secrets.data(AUTHORITY)["tls.crt"])[0].due + 1

    async def meddle(verb: str, name: str) -> None:
        if next(count) == turn:
            await keep(secrets, due)

    secrets.meddle = meddle
    await keep(secrets, due - 10)
    await keep(secrets, due + 1)
    all_trust_all(secrets, tmp_path, due + 1)


async def test_two_at_once(tmp_path: Path) -> None:
    secrets = Secrets()

    async def yielding(verb: str, name: str) -> None:
        await asyncio.sleep(0)

    secrets.meddle = yielding
    await asyncio.gather(*(keep(secrets, NOW) for _ in range(3)))
    all_trust_all(secrets, tmp_path, NOW)


async def test_writers_without_end_are_an_error() -> None:
    secrets = Secrets()
    await keep(secrets, NOW)

    async def meddle(verb: str, name: str) -> None:
        secrets.objects[name]["metadata"]["resourceVersion"] += "x"

    secrets.meddle = meddle
    with pytest.raises(Conflict):
        await keep(secrets, NOW + 80 * DAY)


async def test_keys_are_in_no_text(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = Secrets()
    await keep(secrets, NOW)
    pairs: list[Any] = [pair(secrets, name) for name in (AUTHORITY, *ROLES)]
    said = repr(pairs) + caplog.text + "".join(capfd.readouterr())
    assert "certificate made" in said
    assert "PRIVATE KEY" not in said
    assert not any(line in said for each in pairs for line in each.key.decode().splitlines()[1:-1])


async def test_the_longest_name_of_a_release() -> None:
    secrets, release = Secrets(), "r" * 63
    await certificates.keep(cast("Api", secrets), NAMESPACE, release, NOW)
    paper = read_pair(pair(secrets, f"{release}-operator-tls"))
    assert paper is not None
    assert paper.names == {f"operator.{release}"}


async def test_they_go_with_the_installation() -> None:
    secrets = Secrets()
    secrets.owner_uid = "u-1"
    await keep(secrets, NOW)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": f"{RELEASE}-owner", "uid": "u-1"}
    assert [secrets.objects[name]["metadata"]["ownerReferences"] for name in (AUTHORITY, *ROLES)] == [[owner]] * 4
