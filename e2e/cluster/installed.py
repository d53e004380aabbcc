"""An installed Forebay as tests see it: its functions, its pods, and what it answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
from cluster.kube import PATIENCE, Body
from testbed.release import NAME, NAMESPACE

from cluster import kube

IDLE = 600
"""Seconds of idling after which a test's function goes to zero, unless the test says otherwise: not in between."""


@dataclass
class Installed:
    """``namespace``: the release's; ``home``: where tests put functions; ``uri``: the real model's; ``base``: of the
    gateway, where the addresses in the functions' status cannot be reached from here."""

    uri: str
    namespace: str = NAMESPACE
    home: str = "default"
    name: str = NAME
    base: str = ""
    applied: list[str] = field(default_factory=list)

    def function(self, name: str, **spec: Any) -> Body:
        """The body of a function of the real model; ``spec`` adds to it."""
        spec.setdefault("scaling", {"minReplicas": 0, "maxReplicas": 2, "scaleToZeroGracePeriodSeconds": IDLE})
        model = {"uri": self.uri, **spec.pop("model", {})}
        return {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "LLMFunction",
            "metadata": {"name": name, "namespace": self.home},
            "spec": {"model": model, **spec},
        }

    def apply(self, name: str, **spec: Any) -> None:
        kube.apply(self.function(name, **spec))
        if name not in self.applied:
            self.applied.append(name)

    def look(self, name: str) -> Body:
        return kube.get("llmfn", name, self.home)

    def ready(self, name: str, limit: float = PATIENCE) -> Body:
        kube.kubectl(
            "wait", "--for=condition=Ready", f"llmfn/{name}", "-n", self.home, f"--timeout={limit:g}s", limit=limit + 10
        )
        return self.look(name)

    def state(self, name: str, *states: str, limit: float = PATIENCE) -> Body:
        """The function once its state is one of ``states``."""
        return kube.until(lambda: self.look(name), lambda body: _state(body) in states, f"{name} {states}", limit)

    def url(self, name: str) -> str:
        """Where a function is called."""
        return f"{self.base}/{self.home}/{name}" if self.base else str(self.look(name)["status"]["url"])

    def gateways(self, name: str, *, without: str = "") -> tuple[str, ...]:
        """Where a function is called at each gateway by its pod's own address, but for those on node ``without``."""
        pods = [pod for pod in self.pods("gateway") if pod["spec"]["nodeName"] != without]
        assert pods, f"all gateways are on {without}"
        return tuple(f"http://{pod['status']['podIP']}:8080/{self.home}/{name}" for pod in pods)

    def client(self, name: str, **options: Any) -> openai.AsyncOpenAI:
        """A client of one function."""
        options.setdefault("max_retries", 0)
        return openai.AsyncOpenAI(base_url=f"{self.url(name)}/v1", api_key="none", timeout=PATIENCE, **options)

    def pods(self, component: str) -> list[Body]:
        """Pods of operator, gateway or worker, without those that are going."""
        chosen = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        found = kube.listed("pods", self.namespace, chosen)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def settled(self, component: str, count: int, limit: float = PATIENCE) -> list[Body]:
        """The pods, once there are ``count`` and all are Ready."""
        return kube.until(
            lambda: self.pods(component),
            lambda pods: len(pods) == count and all(kube.condition(pod, "Ready") == "True" for pod in pods),
            f"{count} {component} pods Ready",
            limit,
        )

    def leader(self) -> str:
        """Identity of the operator that acts: its pod's name, and a part that is new at each start of its process."""
        lease = kube.get("lease", f"{self.name}-operator", self.namespace)
        return str(lease["spec"]["holderIdentity"])

    def leading(self) -> Body:
        """The pod of the operator that acts."""
        return kube.get("pod", self.leader().partition("_")[0], self.namespace)

    def remove(self, name: str) -> None:
        kube.delete("llmfn", name, self.home)
        if name in self.applied:
            self.applied.remove(name)

    def identities(self, component: str) -> dict[str, tuple[str, int]]:
        """(uid, restarts) of each pod: equal before and after means that nothing was restarted."""
        return {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                sum(status["restartCount"] for status in pod["status"].get("containerStatuses", ())),
            )
            for pod in self.pods(component)
        }


def answered(url: str) -> int:
    """HTTP status of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def given(uri: str) -> Iterator[Installed]:
    """In a cluster that somebody else runs, with the real model at ``uri``: Forebay is there already, its names come by
    variables, and its gateway through a forwarded port."""
    found = Installed(
        uri=uri,
        namespace=os.environ.get("FOREBAY_E2E_NAMESPACE", NAMESPACE),
        home=os.environ.get("FOREBAY_E2E_HOME", "default"),
        name=os.environ.get("FOREBAY_E2E_RELEASE", NAME),
    )
    command = ("kubectl", "port-forward", "-n", found.namespace, f"svc/{found.name}-gateway", ":http")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()  # Forwarding from 127.0.0.1:PORT -> 8080
            assert "->" in said, f"{' '.join(command)} ended"
            found.base = f"http://{said.split()[2]}"
            yield found
        finally:
            process.terminate()


def _state(body: Body) -> str:
    return str(body.get("status", {}).get("state", ""))
