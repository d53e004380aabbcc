"""What the components may do, asked of the API server, and who may talk to them, tried at their ports."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

import pytest
from cluster.conftest import CREDENTIAL
from cluster.installed import Installed
from testbed.cluster import Cluster
from testbed.shell import ran

from cluster import kube

FORBIDDEN = (
    ("get", "secrets", "kube-system"),
    ("list", "secrets", "forebay-system"),
    ("get", "secrets", "default"),
    ("create", "pods", "default"),
    ("create", "pods/exec", "forebay-system"),
    ("update", "llmfunctions.forebay.dev", "default"),
    ("delete", "nodes", ""),
    ("create", "clusterrolebindings", ""),
)


FOR_ALL = {8080, 8081, 9090}
"""Ports of callers, of probes and of metrics."""
LISTENS = "0A"
LOOPBACK = {"0100007F", f"{'0' * 24}01000000", f"{'0' * 16}FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1, as the kernel writes them."""


def may(account: str, namespace: str, verb: str, what: str, where: str, name: str = "") -> bool:
    """``what``: a resource, or resource/subresource (which kubectl takes for a name); ``name``: of one of them."""
    kind, _, part = what.partition("/")
    more = [f"--as=system:serviceaccount:{namespace}:{account}", f"--subresource={part}"]
    done = ran(
        "kubectl",
        "auth",
        "can-i",
        verb,
        f"{kind}/{name}" if name else kind,
        *more,
        *(("-n", where) if where else ()),
        limit=30,
    )
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize(("verb", "what", "where"), FORBIDDEN)
def test_the_operator_may_not(forebay: Installed, verb: str, what: str, where: str) -> None:
    assert not may(f"{forebay.name}-operator", forebay.namespace, verb, what, where)


def test_the_operator_may_do_its_work(forebay: Installed) -> None:
    account = f"{forebay.name}-operator"
    assert may(account, forebay.namespace, "create", "pods", forebay.namespace)
    assert may(account, forebay.namespace, "patch", "llmfunctions.forebay.dev/status", "default")
    assert may(account, forebay.namespace, "watch", "nodes", "")


def test_the_operator_may_read_listed_secrets_alone(bed: Cluster, forebay: Installed) -> None:
    def reads(namespace: str, name: str) -> bool:
        return may(f"{forebay.name}-operator", forebay.namespace, "get", "secrets", namespace, name)

    assert reads(CREDENTIAL["namespace"], CREDENTIAL["name"])
    assert reads(forebay.namespace, f"{forebay.name}-operator-tls")
    assert not reads(forebay.namespace, CREDENTIAL["name"]), "that name elsewhere"
    assert not reads(forebay.namespace, "database-password")
    assert not reads(CREDENTIAL["namespace"], "database-password")


def test_the_gateway_may_nothing(forebay: Installed) -> None:
    for verb, what in (("get", "pods"), ("get", "secrets"), ("list", "llmfunctions.forebay.dev")):
        assert not may(f"{forebay.name}-gateway", forebay.namespace, verb, what, forebay.namespace)


def test_internal_ports_refuse_a_caller_without_a_certificate(forebay: Installed) -> None:
    if forebay.base:
        pytest.skip("addresses of pods cannot be reached from outside the cluster")
    found = {part: internal(forebay, part) for part in ("operator", "gateway", "worker")}
    assert {port for _, port in found["operator"]} == {9443}
    assert (len(found["operator"]), len(found["gateway"])) == (2, 0)
    assert {address for address, _ in found["worker"]} == {pod["status"]["podIP"] for pod in forebay.pods("worker")}
    for address in (*found["operator"], *found["worker"]):
        # A port without TLS would end the handshake as well: that must go well.
        with shaken(address) as secured, pytest.raises((ssl.SSLError, ConnectionError)):
            talk(secured)


@contextlib.contextmanager
def shaken(address: tuple[str, int]) -> Iterator[ssl.SSLSocket]:
    """TLS without a certificate. With version 1.3 the handshake ends before the server has looked for one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(address, timeout=5) as plain, context.wrap_socket(plain) as secured:
        yield secured


def talk(secured: ssl.SSLSocket) -> bytes:
    """Begin HTTP/2; what is said to that."""
    secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
    said = secured.recv(1000)
    if not said:
        raise ConnectionResetError("hung up")
    return said


def internal(forebay: Installed, component: str) -> list[tuple[str, int]]:
    """Addresses at which pods listen for each other."""
    return [(pod["status"]["podIP"], port) for pod in forebay.pods(component) for port in listening(pod)]


def listening(pod: kube.Body) -> list[int]:
    """TCP ports of a pod that are not `FOR_ALL`, nor its own loopback's, as its kernel lists them."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    rows = kube.kubectl("exec", name, "-n", namespace, "--", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    states = [row.split() for row in rows if row.split()[:1] and row.split()[0].rstrip(":").isdigit()]
    places = [fields[1].split(":") for fields in states if fields[3] == LISTENS]
    return sorted({int(port, 16) for address, port in places if address not in LOOPBACK} - FOR_ALL)
