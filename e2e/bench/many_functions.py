"""What do many functions cost the operator? Applied at once to a real API server; workers are simulated at the wire.

It is not called operator.py: programs beside it would get it for the standard library's module of that name.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import ROOT, heading, table

sys.path[:0] = [str(ROOT / "e2e" / "apiserver"), str(ROOT / "e2e"), str(ROOT / "tests")]

from testbed.programs import programs  # noqa: E402  # the path to it is made above

os.environ.setdefault("FOREBAY_TESTBED_BIN", str(programs()))

import plane  # noqa: E402  # it reads where the programs are
from operators import NAMESPACE, Operator, provided, until  # noqa: E402

from control import actors  # noqa: E402

FUNCTIONS = "/apis/forebay.dev/v1alpha1/namespaces/default/llmfunctions"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
AT_ONCE = 4
"""Functions that are being applied."""
PATIENCE = 900.0
REST = 20.0
"""Seconds in which the operator has nothing to do but hear of workers."""


@dataclass(frozen=True)
class Used:
    """By an operator until now: processor seconds, the most memory in bytes, calls of the API (of those: writes of
    functions' status, and of the lease), passes of the loop and their seconds."""

    cpu: float
    peak: int
    calls: float
    writes: float
    leases: float
    passes: float
    passing: float

    @classmethod
    def by(cls, operator: Operator) -> Used:
        assert operator.process is not None
        proc = Path(f"/proc/{operator.process.pid}")
        after_name = (proc / "stat").read_text().rpartition(")")[2].split()
        ticks = int(after_name[11]) + int(after_name[12])
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return cls(
            cpu=ticks / os.sysconf("SC_CLK_TCK"),
            peak=int(status["VmHWM"].split()[0]) * 1024,
            calls=operator.count("forebay_api_requests_total"),
            writes=operator.count("forebay_api_requests_total", kind="llmfunctions/status"),
            leases=operator.count("forebay_api_requests_total", kind="leases"),
            passes=operator.count("forebay_pass_seconds_count"),
            passing=operator.count("forebay_pass_seconds_sum"),
        )


class Seen:
    """When each function became Ready, from a watch of its own; in seconds of the monotonic clock."""

    def __init__(self, api: plane.Plane, version: str) -> None:
        self.ready: dict[str, float] = {}
        url = f"{api.url}{FUNCTIONS}?watch=true&resourceVersion={version}&timeoutSeconds={PATIENCE:g}"
        self._request = urllib.request.Request(url, headers={"Authorization": f"Bearer {plane.TOKEN}"})
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with urllib.request.urlopen(self._request, context=self._context) as events:
            for line in events:
                self._take(json.loads(line)["object"])

    def _take(self, body: dict[str, Any]) -> None:
        conditions = (body.get("status") or {}).get("conditions") or ()
        if any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions):
            self.ready.setdefault(body["metadata"]["name"], time.monotonic())


def body(number: int, models: int) -> dict[str, Any]:
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "LLMFunction",
        "metadata": {"name": f"f{number}", "namespace": "default"},
        "spec": {"model": {"uri": f"file:///models/m{number % models}"}},
    }


def pod(api: plane.Plane, name: str) -> str:
    """A worker's pod that no kubelet will ever start; its uid."""
    labels = {"app.kubernetes.io/name": "forebay", "app.kubernetes.io/component": "worker"}
    spec = {"containers": [{"name": "worker", "image": "none"}], "automountServiceAccountToken": False}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    return str(api.request("POST", PODS, made)["metadata"]["uid"])


@contextlib.contextmanager
def attached(api: plane.Plane, operator: Operator, workers: int, models: int) -> Iterator[None]:
    """Workers that know all models, on a loop of their own: they must not wait for what the measurement does."""
    actors.BEAT = 1.0  # as real ones
    uris = [f"file:///models/m{number}" for number in range(models)]
    checkpoints: Any = {uri: actors.checkpoint(f"{number:016x}", uri, layers=32) for number, uri in enumerate(uris)}
    present = [actors.Worker(f"w{number}", checkpoints) for number in range(workers)]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        for worker in present:
            worker.report.pod_uid = pod(api, worker.name)
            time.sleep(0.2)  # the operator believes no worker whose pod it has not seen
            asyncio.run_coroutine_threadsafe(worker.attach(f"127.0.0.1:{operator.grpc}"), loop).result(30)
        yield
    finally:
        for worker in present:
            asyncio.run_coroutine_threadsafe(worker.die(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measure(count: int, models: int, workers: int) -> list[str]:
    """One row: a fresh API server, a fresh operator, ``count`` functions."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, plane.running(Path(folder)) as api:
        provided(api)
        operator = Operator(api, "op-a").start()
        try:
            until(operator.leads)
            with attached(api, operator, workers, models):
                time.sleep(12.0)  # what is said at the beginning of a term is said
                return _row(api, operator, count, models)
        finally:
            operator.end()


def _row(api: plane.Plane, operator: Operator, count: int, models: int) -> list[str]:
    seen = Seen(api, api.request("GET", FUNCTIONS)["metadata"]["resourceVersion"])
    before, began = Used.by(operator), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as appliers:
        list(appliers.map(lambda number: api.apply(f"{FUNCTIONS}/f{number}", body(number, models)), range(count)))
    applied = time.monotonic() - began
    until(lambda: len(seen.ready) == count, PATIENCE)
    time.sleep(2.0)  # writes that came after Ready count, too
    after = Used.by(operator)
    time.sleep(REST)
    rest = Used.by(operator)
    calls = after.calls - before.calls - (after.leases - before.leases)
    passes = max(1.0, after.passes - before.passes)
    return [
        str(count),
        f"{applied:.1f}",
        f"{max(seen.ready.values()) - began:.1f}",
        f"{calls / count:.2f}",
        f"{(after.writes - before.writes) / count:.2f}",
        f"{after.cpu - before.cpu:.1f}",
        f"{1e3 * (after.cpu - before.cpu) / count:.0f}",
        f"{1e3 * (after.passing - before.passing) / passes:.1f}",
        f"{(rest.cpu - after.cpu) / REST:.2f}",
        f"{rest.peak / 2**20:.0f}",
    ]


TITLES = [
    "functions",
    "applied within s",
    "all Ready after s",
    "API calls ÷ function",
    "status writes ÷ function",
    "CPU s",
    "CPU ms ÷ function",
    "mean pass ms",
    "cores at rest",
    "peak memory MiB",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "counts", type=int, nargs="*", default=[100, 300, 1000], help="functions (default 100 300 1000)"
    )
    parser.add_argument("--models", type=int, default=20, help="that they share (default 20)")
    parser.add_argument("--workers", type=int, default=8, help="that are attached (default 8)")
    given = parser.parse_args()
    rows = []
    for count in given.counts:
        rows.append(measure(count, given.models, given.workers))
        print("…", *rows[-1], file=sys.stderr)
    print(heading(f"Many functions, {given.models} models, {given.workers} simulated workers, one real API server"))
    print(table(TITLES, rows))


if __name__ == "__main__":
    main()
