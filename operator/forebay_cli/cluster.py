"""A system in a Kubernetes cluster, reached as its people reach it: by kubectl, with their own rights.

The operator shows its view, and has models looked at, on a loopback port of the pod that leads, and the gateway has a
Service: both are reached by port-forward, kept open for as long as the command runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from forebay_api import names
from forebay_cli.state import NothingRuns

VIEW_PORT = "9444"
GATEWAY_PORT = "http"
"""By its name: the number is a value of the chart."""
LOOK_SECONDS = 10.0
FORWARD_SECONDS = 10.0
LABELS = "app.kubernetes.io/name=forebay,app.kubernetes.io/component=operator"
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@dataclass(slots=True)
class Cluster:
    """What `State` is for a folder: where operator and gateway answer. ``context`` and ``namespace`` are kubectl's;
    without a namespace the only installation that the Leases show is taken."""

    context: str
    namespace: str | None = None
    _forwards: dict[str, _Forward] = field(default_factory=dict)

    def operator(self) -> str:
        """gRPC target of the operator that leads. Raises NothingRuns."""
        lease = self._lease()
        holder = lease["spec"].get("holderIdentity") or ""
        if not holder:
            raise NothingRuns(f"no operator leads in namespace {self._place(lease)}: look at its pods")
        pod = holder.partition("_")[0]  # behind it: which of the pod's lives
        return f"127.0.0.1:{self._forward(self._place(lease), f'pod/{pod}', VIEW_PORT)}"

    def gateway(self) -> str:
        """Base URL of the gateway. Raises NothingRuns."""
        lease = self._lease()
        release = lease["metadata"]["name"].removesuffix("-operator")
        return f"http://127.0.0.1:{self._forward(self._place(lease), f'service/{release}-gateway', GATEWAY_PORT)}"

    def home(self) -> str:
        """The namespace that a name without one is of: the context's, as for kubectl. Raises NothingRuns."""
        config = json.loads(self._kubectl("config", "view", "--minify", "-o", "json"))
        return str(config["contexts"][0]["context"].get("namespace") or names.DEFAULT_NAMESPACE)

    def close(self) -> None:
        while self._forwards:
            self._forwards.popitem()[1].close()

    def _lease(self) -> dict[str, Any]:
        where = ["-n", self.namespace] if self.namespace else ["-A"]
        found = json.loads(self._kubectl("get", "leases.coordination.k8s.io", *where, "-l", LABELS, "-o", "json"))
        items: list[dict[str, Any]] = found["items"]
        place = f"in namespace {self.namespace}" if self.namespace else f"behind context {self.context}"
        if not items:
            raise NothingRuns(f"Forebay is not installed {place}: helm install it, or name its --kube-namespace")
        if len(items) > 1:
            spaces = ", ".join(sorted(self._place(item) for item in items))
            raise NothingRuns(f"Forebay is installed more than once {place}: choose a --kube-namespace of {spaces}")
        return items[0]

    @staticmethod
    def _place(lease: dict[str, Any]) -> str:
        return str(lease["metadata"]["namespace"])

    def _kubectl(self, *words: str) -> str:
        """Raises NothingRuns with what kubectl says."""
        try:
            done = subprocess.run(
                [_program(), "--context", self.context, *words],
                capture_output=True,
                text=True,
                timeout=LOOK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NothingRuns(f"the cluster of context {self.context} does not answer") from None
        if done.returncode:
            raise NothingRuns(done.stderr.strip() or f"kubectl {words[0]} failed")
        return done.stdout

    def _forward(self, namespace: str, target: str, port: str) -> int:
        """The local port that leads there; an open way is used again. ``port``: a number, or its name in a Service."""
        known = self._forwards.pop(target, None)
        if known is None or not known.open:
            if known is not None:
                known.close()
            words = ["--context", self.context, "-n", namespace, "port-forward", target, f":{port}"]
            known = _Forward.open_way([_program(), *words], target)
        self._forwards[target] = known
        return known.port


@contextlib.contextmanager
def cluster(context: str, namespace: str | None) -> Iterator[Cluster]:
    found = Cluster(context, namespace)
    try:
        yield found
    finally:
        found.close()


def _program() -> str:
    found = shutil.which("kubectl")
    if found is None:
        raise NothingRuns("--kube-context needs kubectl, which is not on the PATH")
    return found


@dataclass(frozen=True, slots=True)
class _Forward:
    process: subprocess.Popen[str]
    port: int

    @classmethod
    def open_way(cls, words: list[str], target: str) -> _Forward:
        """Raises NothingRuns."""
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said: list[str] = []
        assert process.stdout is not None
        deadline = time.monotonic() + FORWARD_SECONDS
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0 and ready.select(left):
                line = process.stdout.readline()
                if match := FORWARDING.match(line):
                    return cls(process, int(match[1]))
                if not line:
                    break
                said.append(line.strip())
        way = cls(process, 0)
        way.close()
        raise NothingRuns(f"no way to {target}: {' '.join(said) or 'kubectl port-forward said nothing'}")

    @property
    def open(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2.0)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
