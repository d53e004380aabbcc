"""Forebay's processes as a person starts them alone, a real Prometheus that scrapes them all, and a proxy between that
and the operator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from clients import Clients
from prometheus_client.parser import text_string_to_metric_families

from forebay_cli.state import State
from local import system as local
from measured.proxy import Proxy
from prometheus_process import PrometheusProcess

NAME = "chat"
WORKERS = 4
TARGET = 2
GRACE = 2
SCALING = {
    "target": TARGET,
    "targetUtilizationPercent": 100,
    "windowSeconds": 6,
    "maxReplicas": 3,
    "scaleToZeroGracePeriodSeconds": GRACE,
}
SCRAPE_SECONDS = 1
RIGHT, WRONG = "right-token", "wrong-token"
LINK_RATE = "20MB/s"
"""Of each worker, emulated: some loading is seen, and little is waited for."""

Seen = dict[str, Any]


@dataclass(eq=False)
class Scraped:
    """``functions`` is the operator's file, ``token`` what it shows to Prometheus."""

    system: local.System
    prometheus: PrometheusProcess
    proxy: Proxy
    clients: Clients
    functions: Path
    token: Path
    model: Path
    metrics: int
    targets: tuple[int, ...] = ()
    least: int = WORKERS

    def apply(self, **scaling: object) -> None:
        """The function, with this in its scaling."""
        local.write(self.functions, local.function(NAME, self.model, scaling={**SCALING, **scaling}))

    async def until(self, holds: Callable[[Seen], object], what: str) -> Seen:
        """The function as the operator's view shows it, once that holds. Raises what its callers were refused with."""

        def check(view: Seen) -> object:
            self.clients.check()
            return view["functions"] and holds(view["functions"][0])

        seen = await self.system.until(check, what)
        found: Seen = seen["functions"][0]
        return found

    async def settled(self, replicas: int, load: int) -> Seen:
        """Once there are so many replicas, and Prometheus says that ``load`` requests run, of both gateways, and that
        no others did: a mean may pass by ``load`` while it still holds what was before, and goes where that leads."""
        others = self.clients.changed + 2 * SCRAPE_SECONDS + float(SCALING["windowSeconds"])

        def holds(found: Seen) -> bool:
            stable = given(found, "stable")
            return (
                (found["desired"], found["ready"]) == (replicas, replicas)
                and scaling_active(found) == ("True", "Scaling")
                and stable["source"] == "Prometheus"
                and stable["sampledAt"] > others
                and abs(stable["value"] - load) < 0.9
            )

        return await self.until(holds, f"{replicas} replicas for {load} requests")

    async def blind(self, reason: str) -> Seen:
        return await self.until(lambda found: scaling_active(found) == ("False", reason), f"blind for {reason}")

    async def watch(self) -> None:
        """Until cancelled: note the least that is wanted and that answers."""

        def note(view: Seen) -> bool:
            for found in view["functions"]:
                self.least = min(self.least, found["ready"], found["desired"])
            return False

        while True:
            with contextlib.suppress(AssertionError):
                await self.system.until(note, "the end of the test")

    async def forebay(self, *words: str) -> str:
        """What the command prints."""
        verb = [sys.executable, "-m", "forebay_cli", *words, "--state", str(self.system.state.folder)]
        done = await asyncio.to_thread(
            subprocess.run, verb, capture_output=True, text=True, timeout=local.PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def condition(self) -> tuple[str, str]:
        """(status, reason) of ScalingActive, as a person asks for it."""
        (found,) = json.loads(await self.forebay("get", "functions", "-o", "json"))
        return scaling_active(found)

    async def measured(self) -> dict[tuple[str, str], float]:
        """The operator's own metrics: by name and the value of their only label."""
        page = await asyncio.to_thread(read, f"http://127.0.0.1:{self.metrics}/metrics")
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }


def scaling_active(found: Seen) -> tuple[str, str]:
    condition = next(entry for entry in found["conditions"] if entry["type"] == "ScalingActive")
    return condition["status"], condition["reason"]


def given(found: Seen, name: str) -> Seen:
    """One number that the present decision was made from."""
    inputs = (found["scaling"] or {"inputs": []})["inputs"]
    return next((entry for entry in inputs if entry["name"] == name), {"value": -1.0, "sampledAt": 0.0, "source": ""})


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=local.PATIENCE) as answer:
        return str(answer.read().decode())


@contextlib.asynccontextmanager
async def running(folder: Path, model: Path) -> AsyncIterator[Scraped]:
    """Ended with nothing left."""
    ports = local.free_port(), local.free_port()
    system = local.System(State(folder / "state"), ports[0])
    prometheus = PrometheusProcess(folder / "prometheus", every=f"{SCRAPE_SECONDS}s")
    proxy = Proxy(prometheus.url)
    proxy.token = RIGHT
    clients = Clients([f"http://127.0.0.1:{port}" for port in ports], NAME)
    metrics = local.free_port()
    found = Scraped(system, prometheus, proxy, clients, folder / "functions.yaml", folder / "token", model, metrics)
    found.apply()
    found.token.write_text(RIGHT)
    await proxy.open()
    try:
        start(found, ports)
        seen = await system.ready(WORKERS, timeout=3 * local.PATIENCE)  # they are nice
        workers = [int(urlsplit(worker["metricsUrl"]).port or 0) for worker in seen["workers"]]
        found.targets = (metrics, *ports, *workers)
        prometheus.scrape(*found.targets)
        await asyncio.to_thread(prometheus.start)
        yield found
    finally:
        await clients.close()
        prometheus.kill()
        await proxy.close()
        await asyncio.to_thread(end, system)


def start(found: Scraped, ports: tuple[int, ...]) -> None:
    system = found.system
    words = ("-f", str(found.functions), "--gateway-url", system.url, "--metrics-port", str(found.metrics))
    settings = {
        "FOREBAY_PROMETHEUS_URL": found.proxy.url,
        "FOREBAY_PROMETHEUS_TOKEN_FILE": str(found.token),
        "FOREBAY_PROMETHEUS_INTERVAL": "0.5",
        "FOREBAY_PROMETHEUS_TIMEOUT": "2",
    }
    system.start("operator", "operator", *words, **settings)
    for number, port in enumerate(ports):
        system.start(f"gateway{number}", "gateway", "--port", str(port))
    workers = system.start("workers", "worker", "--count", str(WORKERS), "--device", "cpu", "--link-rate", LINK_RATE)
    psutil.Process(workers.pid).nice(10)  # they take all there is, and who measures must not wait for that


def end(system: local.System) -> None:
    left = system.children()
    for name in reversed(list(system.processes)):
        system.stop(name)
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        process.kill()
    assert not alive, f"left running: {alive}"
