"""Operators as processes, each with ports of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import plane
import yaml

from forebay_wire.v1 import view_pb2, view_pb2_grpc

FUNCTIONS = "/apis/forebay.dev/v1alpha1/namespaces/default/llmfunctions"
NAMESPACE = "forebay-system"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/forebay-operator"
POOLS = f"/apis/forebay.dev/v1alpha1/namespaces/{NAMESPACE}/workerpools"
ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
CHART = ROOT / "deploy" / "helm" / "forebay"
RIGHTS = "templates/operator/rbac.yaml"
PATIENCE = 30.0


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What ``what`` gives once it is true. Raises AssertionError."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s")
        time.sleep(0.05)
    return found


def rights() -> list[dict[str, Any]]:
    """What the chart lets its operator do."""
    command = [plane.BINARIES / "helm", "template", "forebay", CHART, "--namespace", NAMESPACE]
    made = subprocess.run([*command, "--show-only", RIGHTS], capture_output=True, text=True, check=True)
    return [body for body in yaml.safe_load_all(made.stdout) if body]


def provided(api: plane.Plane) -> None:
    """Make what the chart makes before its operator starts: kinds, namespace, rights; and a pool without nodes."""
    for name in ("llmfunctions", "workerpools"):
        kind = yaml.safe_load((CRDS / f"{name}.yaml").read_text())
        api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind['metadata']['name']}", kind)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    api.request("POST", "/api/v1/namespaces", namespace)
    for body in rights():
        where = body["metadata"].get("namespace")
        within = f"/namespaces/{where}" if where else ""
        api.request("POST", f"/apis/{body['apiVersion']}{within}/{body['kind'].lower()}s", body)
    pool = {"apiVersion": "forebay.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "default"}}
    until(lambda: _created(api, {**pool, "spec": {"nodeSelector": {"no": "node"}}}))


def _created(api: plane.Plane, pool: dict[str, Any]) -> bool:
    try:
        api.request("POST", POOLS, pool)
    except urllib.error.HTTPError as error:
        if error.code != 404:  # its kind was made a moment ago
            raise
        return False
    return True


def pod(api: plane.Plane, name: str) -> str:
    """A worker pod that no kubelet will ever start; its uid."""
    labels = {"app.kubernetes.io/name": "forebay", "app.kubernetes.io/component": "worker"}
    spec = {"containers": [{"name": "worker", "image": "none"}], "automountServiceAccountToken": False}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    return str(api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body)["metadata"]["uid"])


def status(api: plane.Plane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.request("GET", f"{FUNCTIONS}/{name}").get("status") or {}
    return found


def condition(api: plane.Plane, name: str, kind: str) -> dict[str, Any]:
    found = {entry["type"]: entry for entry in status(api, name).get("conditions") or ()}
    return found.get(kind) or {}


class Operator:
    def __init__(self, api: plane.Plane, name: str, **environ: str) -> None:
        self.name = name
        self.log = api.folder / f"{name}.log"
        self.grpc, self.view, self.health, self.metrics_port = plane.free_ports(4)
        self._environ = {
            **os.environ,
            "KUBECONFIG": str(api.operator_kubeconfig),
            "POD_NAME": name,
            "POD_NAMESPACE": NAMESPACE,
            "FOREBAY_RELEASE": "forebay",
            "FOREBAY_OPERATOR": f"127.0.0.1:{self.grpc}",
            "FOREBAY_VIEW": f"127.0.0.1:{self.view}",
            "FOREBAY_HEALTH_PORT": str(self.health),
            "FOREBAY_METRICS_PORT": str(self.metrics_port),
            **environ,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Operator:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "forebay_operator", "--cluster"], env=self._environ, stderr=log, stdout=log
            )
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.send(number)
        return self.process.wait(30)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def count(self, metric: str, **labels: str) -> float:
        """Sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == metric]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(part in line for part in wanted))

    def leads(self) -> bool:
        try:
            return self.count("forebay_leading") == 1
        except OSError:  # it does not listen yet
            return False

    def shows(self, port: int) -> str | grpc.StatusCode:
        """The view, or how it was refused."""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                stream = view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest(once=True), timeout=5)
                return str(next(iter(stream)).json)
            except grpc.RpcError as error:
                return error.code()  # type: ignore[no-any-return,attr-defined]

    def logged(self) -> str:
        return self.log.read_text()


def holder(api: plane.Plane) -> str:
    """The pod that leads, empty: none."""
    try:
        return str(api.request("GET", LEASE)["spec"].get("holderIdentity") or "").rpartition("_")[0]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise
