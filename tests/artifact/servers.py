"""Real servers on loopback for sources of models: byte ranges, TLS, the hub's protocol; and levers that break them."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Asked:
    """One request for content: which bytes of which file (``end`` exclusive), and with which headers."""

    path: str
    begin: int
    end: int
    headers: Mapping[str, str]


@dataclass
class Lever:
    """What goes wrong. ``status``: answers this; ``drop_after``: this many bytes of an answer, then the connection
    ends; ``flip``: the byte at this offset of weights is another; ``ranges``: whether it knows them at all. ``times``:
    how often the first two happen, None = always."""

    status: int = 0
    drop_after: int | None = None
    times: int | None = None
    flip: int | None = None
    ranges: bool = True
    before: Callable[[Asked], None] = field(default=lambda asked: None)

    def happens(self) -> bool:
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class FileServer:
    """Serves ``files`` (by path, from "/") until ``close``. ``token``: what an Authorization header must end with."""

    def __init__(self, tls: Tls | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.lever = Lever()
        self._tags: dict[str, tuple[bytes, str]] = {}
        self.token = ""
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed here
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        if tls:
            self._server.socket = tls.context().wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def put(self, prefix: str, folder: Path) -> None:
        self.files |= {f"{prefix}/{path.name}": path.read_bytes() for path in folder.iterdir()}

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def weights_asked(self) -> list[tuple[int, int]]:
        with self._lock:
            return sorted((each.begin, each.end) for each in self.asked if each.path.endswith(".safetensors"))

    def answer(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, without regard to ranges."""
        if self.token and not headers.get("Authorization", "").endswith(self.token):
            return 401, {}, b"who are you?"
        if path not in self.files:
            return 404, {}, b"not here"
        content = self.files[path]
        return 200, {"ETag": self._tag(path, content)}, content

    def _tag(self, path: str, content: bytes) -> str:
        """Computed once for each content: it is asked for with every range."""
        known, tag = self._tags.get(path, (b"", ""))
        if known is not content:
            tag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
            self._tags[path] = content, tag
        return tag

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class HubServer(FileServer):
    """The hub as huggingface_hub speaks with it: the listing of a revision, and files of a commit; large ones by a
    redirect to another host with a signed address."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Path] = {}
        self.store = FileServer()
        self.wrong_sums = False

    def add(self, repository: str, folder: Path) -> None:
        self.repositories[repository] = folder
        self.put(f"/{repository}/resolve/{self.COMMIT}", folder)
        self.store.put(f"/{repository}", folder)

    def answer(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        status, found, body = super().answer(path, headers)
        if status == 401:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid credentials"}, b"{}"
        if path.startswith("/api/models/"):
            return self._listing(path.removeprefix("/api/models/"))
        if status == 200 and path.endswith(".safetensors"):
            name = path.rpartition("/")[2]
            repository = "/".join(path.split("/")[1:3])
            return 302, {"Location": f"{self.store.url}/{repository}/{name}?signature=signed-and-secret"}, b""
        return status, found, body

    def _listing(self, asked: str) -> tuple[int, dict[str, str], bytes]:
        repository, _, revision = asked.partition("/revision/")
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if unquote(revision) not in ("main", "v1", self.COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        siblings = [self._sibling(path) for path in sorted(self.repositories[repository].iterdir())]
        body = {"_id": "1", "id": repository, "modelId": repository, "sha": self.COMMIT, "siblings": siblings}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _sibling(self, path: Path) -> dict[str, object]:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        found: dict[str, object] = {"rfilename": path.name, "size": len(content), "blobId": blob}
        if path.name.endswith(".safetensors"):
            digest = "0" * 64 if self.wrong_sums else hashlib.sha256(content).hexdigest()
            found["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        return found

    def close(self) -> None:
        super().close()
        self.store.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    wbufsize = -1
    owner: FileServer

    def do_GET(self) -> None:
        owner, path = self.owner, unquote(urlsplit(self.path).path)
        headers_asked = {name.title(): value for name, value in self.headers.items()}
        status, headers, body = owner.answer(path, headers_asked)
        begin, end = self._range(len(body)) if status == 200 else (0, len(body))
        asked = Asked(path, begin, end, headers_asked)
        owner.lever.before(asked)
        if owner.lever.status and owner.lever.happens():
            status, headers, body, begin, end = owner.lever.status, {}, b"no", 0, 2
        elif status == 200:
            owner.note(asked)
            if owner.lever.flip is not None and path.endswith(".safetensors"):
                body = body[: owner.lever.flip] + bytes([body[owner.lever.flip] ^ 1]) + body[owner.lever.flip + 1 :]
            if self.headers.get("Range") and owner.lever.ranges:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(body)}"
                status = 206
        self._send(status, headers, body[begin:end])

    def _range(self, size: int) -> tuple[int, int]:
        asked = self.headers.get("Range")
        if not asked or not self.owner.lever.ranges:
            return 0, size
        begin, _, last = asked.removeprefix("bytes=").partition("-")
        return int(begin), min(int(last) + 1 if last else size, size)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.owner.lever.drop_after
        if cut is not None and cut < len(body) and self.owner.lever.happens():
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002, the base class's name
        """Tests say what they saw."""


@dataclass(frozen=True)
class Tls:
    """A certificate for 127.0.0.1, signed by an authority of this test's own, in files."""

    authority: Path
    certificate: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context

    @classmethod
    def make(cls, folder: Path) -> Tls:
        key, name = ec.generate_private_key(ec.SECP256R1()), _name("a test's authority")
        authority = _certificate(name, name, key, key, ca=True)
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(_name("127.0.0.1"), name, own, key, ca=False)
        pem = serialization.Encoding.PEM
        made = cls(folder / "ca.pem", folder / "server.pem")
        made.authority.write_bytes(authority.public_bytes(pem))
        made.certificate.write_bytes(
            own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(pem)
        )
        return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, ca: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        made = made.add_extension(names, critical=False)
    return made.sign(by, hashes.SHA256())
