"""etcd and a kube-apiserver on loopback, for tests that need the API's real behaviour and no node."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from local.system import free_port

BINARIES = Path(os.environ.get("FOREBAY_TESTBED_BIN", "/tmp/testbed/bin"))
"""Where `make testbed` puts the daemons."""

TOKEN = "for-loopback-only"
COMING_UP = 60.0
PUT_OFF = 10.0


def available() -> bool:
    return all((BINARIES / name).exists() for name in ("etcd", "kube-apiserver"))


class Plane:
    """``request`` speaks for an administrator; ``kubeconfig`` is theirs. ``operator_kubeconfig`` is the service
    account's that a chart named forebay makes."""

    operator = "system:serviceaccount:forebay-system:forebay-operator"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.operator_kubeconfig = folder / "operator.kubeconfig"
        self.port, self._etcd_port, self._peer_port = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _token_key(self.folder)
        tokens = f'{TOKEN},admin,admin,"system:masters"\n{TOKEN}-operator,{self.operator},operator\n'
        (self.folder / "tokens.csv").write_text(tokens)
        self.kubeconfig.write_text(json.dumps(_kubeconfig(self.url, TOKEN)))
        self.operator_kubeconfig.write_text(json.dumps(_kubeconfig(self.url, f"{TOKEN}-operator")))
        self._start("etcd", self._etcd())
        self.start()

    def start(self) -> None:
        """The API server, which keeps everything in etcd."""
        self._start("kube-apiserver", self._apiserver())
        end = time.monotonic() + COMING_UP
        while time.monotonic() < end:
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                self.request("GET", "/readyz")
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "kube-apiserver.log").read_text()[-3000:])

    def stop(self) -> None:
        """The API server alone, at once: it would wait for watches to end."""
        self._end("kube-apiserver", signal.SIGKILL)

    def down(self) -> None:
        for name in reversed(list(self._daemons)):
            self._end(name, signal.SIGKILL)  # nothing here is worth a long good-bye
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def request(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """Asks again, as clients do, while an API server that has just started puts us off."""
        end = time.monotonic() + PUT_OFF
        while True:
            try:
                return self._request(method, path, body, content)
            except urllib.error.HTTPError as error:
                if error.code != 429 or time.monotonic() >= end:
                    raise
            time.sleep(0.2)

    def _request(self, method: str, path: str, body: Any, content: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        data = None
        if body is not None:
            request.add_header("Content-Type", content)
            data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=10, context=self._context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace")[:2000])
            raise
        return json.loads(text) if text.startswith(b"{") else text

    def apply(self, path: str, body: Any, manager: str = "test") -> Any:
        return self.request("PATCH", f"{path}?fieldManager={manager}&force=true", body, "application/apply-patch+yaml")

    def compact(self) -> None:
        """etcd forgets what was, up to now. An API server that starts after it answers watches from before with 410."""
        revision = self._ask_etcd("maintenance/status", {})["header"]["revision"]
        self._ask_etcd("kv/compaction", {"revision": revision, "physical": True})

    def expired(self, path: str, version: str) -> bool:
        """Whether nobody may watch from ``version`` any more."""
        said = self.request("GET", f"{path}?watch=true&timeoutSeconds=1&resourceVersion={version}")
        return isinstance(said, dict) and said["type"] == "ERROR" and said["object"]["code"] == 410

    def _ask_etcd(self, path: str, body: Any) -> Any:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:
            return json.loads(answer.read())

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self._daemons[name] = subprocess.Popen(
                [str(BINARIES / name), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _etcd(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        return [
            "--name=n0",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=n0={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder}/certificates",
            "--service-cluster-ip-range=10.97.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/sa.pub",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--feature-gates=ResourceHealthStatus=true",
            "--profiling=false",
            "--v=1",
        ]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Plane]:
    plane = Plane(folder)
    try:
        plane.up()
        yield plane
    finally:
        plane.down()


def _kubeconfig(url: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    }


def _token_key(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    kept = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "sa.key").write_bytes(kept)
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(shown)


def free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)
