"""Cold starts of one function in a cluster and in local mode, in turns: what does the cluster add to the first token?

Both have as many workers, each on the cores of a node, with the same emulated link; the client is on the same machine.
In the cluster each worker is on a node of its own, so that hops go over the network, encrypted.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from machine import ROOT, heading, measured, table

sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "tests")]

import openai  # noqa: E402  # beside its neighbours, which need the paths above
from cluster.installed import Installed  # noqa: E402
from testbed import cgroups, release  # noqa: E402
from testbed.cluster import Cluster  # noqa: E402

from checkpoints import real_smollm2  # noqa: E402
from forebay_cli import cluster as companion  # noqa: E402
from forebay_cli import view  # noqa: E402
from forebay_cli.state import State  # noqa: E402
from local.system import System, function, pieces, running, write  # noqa: E402

NAME = "smollm2"
GROUP = "forebay-bench"
GRACE = 3
"""Seconds from the last token to zero."""
CALM = 2.0
"""Seconds from zero to the next request: everything is freed, and what is written about it is written."""
WORKERS_UP = 240.0


@dataclass
class Place:
    """One of the two, and what was measured there, in seconds."""

    name: str
    system: System
    url: str
    client: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    servable: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)

    async def measure(self, prompt: str) -> None:
        """One request from zero."""
        before = await self.system.until(at_zero, f"{self.name}: at zero")
        await asyncio.sleep(CALM)
        self.client.append(await self._first_token(prompt))
        seen = await self.system.until(lambda seen: told(seen, before), f"{self.name}: a first token")
        cold = seen["coldStarts"][0]
        self.asked.append(cold["firstByteAt"] - cold["queuedAt"])
        self.servable.append(cold["servableAt"] - cold["firstByteAt"])
        self.first.append(cold["firstTokenAt"] - cold["firstByteAt"])
        self.predicted.append(cold["predicted"]["firstToken"])
        self.stages.append(len(cold["stages"]))

    async def _first_token(self, prompt: str) -> float:
        began = time.monotonic()
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=90, max_retries=0) as client:
            after = [time.monotonic() - began async for _ in pieces(client, NAME, prompt, max_tokens=4)]
        return after[0]


def at_zero(seen: view.View) -> bool:
    """Nothing is on the devices, and all is ready and measured for the next start."""
    backbones = {item["backbone"] for item in seen["functions"]}
    ready = all(worker["state"] == "Ready" and backbones <= set(worker["prepared"]) for worker in seen["workers"])
    empty = not any(worker["residentBytes"] for worker in seen["workers"]) and not seen["pipelines"]
    return bool(seen["workers"]) and "" not in backbones and ready and measured(seen) and empty


def told(seen: view.View, before: view.View) -> bool:
    """There is a cold start that was not there before, and it got to its first token."""
    if len(seen["coldStarts"]) == 0 or seen["coldStarts"][:1] == before["coldStarts"][:1]:
        return False
    return None not in (seen["coldStarts"][0]["servableAt"], seen["coldStarts"][0]["firstTokenAt"])


def scaling() -> dict[str, int]:
    return {"minReplicas": 0, "maxReplicas": 1, "scaleToZeroGracePeriodSeconds": GRACE}


@contextlib.asynccontextmanager
async def in_cluster(bed: Cluster, rate: int) -> AsyncIterator[Place]:
    """One operator, one gateway, one worker on each node."""
    settings = release.Settings(operators=1, gateways=1, env={"FOREBAY_LINK_RATE": f"{rate}MB/s"})
    uri = release.prepare(bed, real_smollm2())
    release.install(bed, settings)
    forebay = Installed(uri)
    forebay.settled("worker", len(bed.nodes), WORKERS_UP)
    forebay.apply(NAME, scaling=scaling())
    forebay.ready(NAME)
    try:
        with companion.cluster("testbed", forebay.namespace) as reached:
            system = System(cast("State", reached), 0)  # of a state it is asked only where its operator is
            yield Place("cluster", system, forebay.url(NAME))
    finally:
        forebay.remove(NAME)
        release.uninstall(bed)


@contextlib.asynccontextmanager
async def in_local_mode(bed: Cluster, rate: int) -> AsyncIterator[Place]:
    """Operator, gateway, and a worker on the cores of each node; what else runs slows it down as little as a node."""
    os.environ["FOREBAY_CPUS"] = "/".join(",".join(map(str, node.cores)) for node in bed.nodes)
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder:
        file = write(Path(folder) / "functions.yaml", function(NAME, real_smollm2(), scaling=scaling()))
        state, links = Path(folder) / "state", f"{rate}MB/s"
        with running(state, [file], workers=len(bed.nodes), link_rate=links) as system, grouped(system):
            await system.ready(len(bed.nodes))
            yield Place("local mode", system, system.url)


@contextlib.contextmanager
def grouped(system: System) -> Iterator[None]:
    """All processes of ``system``, in a control group with a node's share of the machine."""
    cgroups.make(GROUP)
    try:
        for _ in range(2):  # one that was forked meanwhile is found the second time
            cgroups.enter(GROUP, [process.pid for process in system.children()])
        yield
    finally:
        atexit.register(cgroups.remove, GROUP)  # its processes end after this block


async def compare(rates: list[int], repeat: int, prompt: str) -> None:
    if (state := os.environ.get("FOREBAY_TESTBED")) is None:
        sys.exit(
            "--cluster needs one: PYTHONPATH=e2e python -m testbed run -- python e2e/bench/cold_start.py --cluster"
        )
    bed = Cluster.at(Path(state))
    rows, added = [], []
    for rate in rates:
        async with in_local_mode(bed, rate) as here, in_cluster(bed, rate) as there:
            for turn in range(repeat + 1):
                for place in (here, there) if turn % 2 else (there, here):
                    await place.measure(prompt)
                    print(f"… {rate} MB/s, {place.name}: first token {place.client[-1]:.3f} s", file=sys.stderr)
            rows += [row(rate, place) for place in (here, there)]
            added.append(difference(rate, here, there))
    print(heading(f"What a cluster adds to a cold start of SmolLM2-135M-Instruct, fp32, median of {repeat}"))
    print(table(TITLES, rows))
    print("", *added, sep="\n")


def row(rate: int, place: Place) -> list[str]:
    """The first repetition is left out: it opens connections that stay."""
    client = place.client[1:]
    return [
        f"{rate} MB/s, {place.name}",
        str(round(statistics.median(place.stages[1:]))),
        f"{1e3 * statistics.median(place.asked[1:]):.0f}",
        f"{statistics.median(place.servable[1:]):.3f}",
        f"{statistics.median(place.first[1:]):.3f} ({statistics.median(place.predicted[1:]):.3f})",
        f"{statistics.median(client):.3f} ({min(client):.3f} to {max(client):.3f})",
    ]


def difference(rate: int, here: Place, there: Place) -> str:
    pairs = [a - b for a, b in zip(there.client[1:], here.client[1:], strict=True)]
    medians = statistics.median(there.client[1:]) - statistics.median(here.client[1:])
    return (
        f"at {rate} MB/s the cluster adds {1e3 * medians:.0f} ms to the first token that a client sees "
        f"(median of the pairs' differences: {1e3 * statistics.median(pairs):.0f} ms)"
    )


TITLES = [
    "links",
    "stages",
    "request ▸ first byte ms",
    "servable s",
    "first token s (predicted)",
    "seen by client s",
]
