"""The operator's own identity: written as one, and taken by a real handshake."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from cluster_certificates.secrets import NAMESPACE, RELEASE, Secrets
from forebay_channel import Identity, Role
from forebay_operator.cluster import certificates
from forebay_operator.cluster.api import Api, NotFound
from forebay_operator.cluster.authority import Pair, read_pair

FILES = ["ca.crt", "tls.crt", "tls.key"]


async def keep(secrets: Secrets, now: float) -> float:
    return await certificates.keep(cast("Api", secrets), NAMESPACE, RELEASE, now)


async def fetch(secrets: Secrets, folder: Path) -> None:
    await certificates.fetch(cast("Api", secrets), NAMESPACE, RELEASE, folder)


async def test_what_is_written_is_what_the_secret_has(tmp_path: Path) -> None:
    secrets, folder = Secrets(), tmp_path / "tls"
    await keep(secrets, time.time())
    await fetch(secrets, folder)
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("..")) == FILES
    assert {name: (folder / name).read_bytes() for name in FILES} == secrets.data(f"{RELEASE}-operator-tls")
    assert stat.S_IMODE((folder / "tls.key").stat().st_mode) == 0o600
    before = Identity(folder, RELEASE).state()
    await fetch(secrets, folder)
    assert Identity(folder, RELEASE).state() == before, "nothing new is nothing to read again"


async def test_a_new_version_replaces_the_old_one_as_one(tmp_path: Path) -> None:
    secrets, folder, now = Secrets(), tmp_path / "tls", time.time()
    await keep(secrets, now)
    await fetch(secrets, folder)
    seen: list[bool] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            version = folder / os.readlink(folder / "..data")
            try:
                pair = Pair((version / "tls.crt").read_bytes(), (version / "tls.key").read_bytes())
            except FileNotFoundError:  # replaced meanwhile, and gone
                continue
            seen.append(read_pair(pair) is not None)

    reader = threading.Thread(target=look)
    reader.start()
    for days in range(1, 6):
        before = Identity(folder, RELEASE).state()
        await keep(secrets, now + days * 61 * 86400)
        await fetch(secrets, folder)
        assert Identity(folder, RELEASE).state() != before
    stop.set()
    reader.join()
    assert seen
    assert all(seen)
    assert len([path for path in folder.iterdir() if path.name.startswith("..") and not path.is_symlink()]) == 1


async def test_what_a_killed_writer_left_does_not_matter(tmp_path: Path) -> None:
    secrets, folder = Secrets(), tmp_path / "tls"
    (folder / "..new-half").mkdir(parents=True)
    (folder / "..data.new").symlink_to("nowhere")
    await keep(secrets, time.time())
    await fetch(secrets, folder)
    assert read_pair(Pair((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes())) is not None
    assert not (folder / "..new-half").exists()


async def test_nothing_to_fetch_is_said(tmp_path: Path) -> None:
    secrets = Secrets()
    with pytest.raises(NotFound, match="operator-tls"):
        await fetch(secrets, tmp_path)
    await keep(secrets, time.time())
    secrets.objects[f"{RELEASE}-operator-tls"]["data"]["tls.crt"] = ""
    with pytest.raises(NotFound, match=r"has no tls\.crt"):
        await fetch(secrets, tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_real_handshake_both_ways(tmp_path: Path) -> None:
    secrets = Secrets()
    await keep(secrets, time.time())
    await fetch(secrets, tmp_path / "operator")
    worker = tmp_path / "worker"
    worker.mkdir()
    for name, content in secrets.data(f"{RELEASE}-worker-tls").items():
        (worker / name).write_bytes(content)
    server = _context(tmp_path / "operator", ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    shown: list[object] = []

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with server.wrap_socket(sock, server_side=True) as secure:
            shown.append((secure.getpeercert() or {})["subjectAltName"])
            secure.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        client = _context(worker, ssl.PROTOCOL_TLS_CLIENT)
        with (
            socket.create_connection(listener.getsockname(), timeout=10) as sock,
            client.wrap_socket(sock, server_hostname=Identity(worker, RELEASE).name(Role.OPERATOR)) as secure,
        ):
            assert secure.recv(1) == b"x"
        thread.join(10)
    assert shown == [(("DNS", f"worker.{RELEASE}"),)]


def _context(folder: Path, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


async def test_a_certificate_that_others_made_is_taken(tmp_path: Path) -> None:
    """With an RSA key, as some issuers give."""
    secrets = Secrets()
    await keep(secrets, time.time())
    _self_signed(tmp_path)
    secrets.objects[f"{RELEASE}-operator-tls"]["data"] = {
        name: base64.b64encode((tmp_path / file).read_bytes()).decode()
        for name, file in (("tls.crt", "crt"), ("tls.key", "key"), ("ca.crt", "crt"))
    }
    await fetch(secrets, tmp_path / "tls")
    assert (tmp_path / "tls" / "tls.key").read_bytes() == (tmp_path / "key").read_bytes()


def _self_signed(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=operator", "-days", "1",
         "-keyout", folder / "key", "-out", folder / "crt"],
        check=True, capture_output=True,
    )  # fmt: skip
