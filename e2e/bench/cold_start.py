"""How long until a function at zero answers? Workers and links, chosen and equal cut, beside what physics allows."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from footprint import MOST, Footprint, followed, worst
from machine import ROOT, at_rest, heading, table

sys.path.insert(0, str(ROOT / "tests"))

from checkpoints import real_smollm2  # the tests' own fixtures: one way to make and start things
from local.system import System, function, pieces, running, write

PROMPT = "Write one short sentence about a mill that stands beside a slow river in spring."


@dataclass
class Case:
    """One way to start; measured values in seconds, one a repetition."""

    name: str
    workers: int
    rate: int  # MB/s per link
    shared: bool = False
    equal: bool = False
    ready: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    servable: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    predicted: list[tuple[float, float]] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)
    memory: list[Footprint] = field(default_factory=list)  # of the worker that takes most for its units


def cases(rates: list[int]) -> Iterator[Case]:
    for rate in rates:
        for workers in (1, 2, 4):
            yield Case(f"{workers} link{'s' if workers > 1 else ''}", workers, rate)
        yield Case("4 links, equal cut", 4, rate, equal=True)
        yield Case("4 workers, 1 shared link", 4, rate, shared=True)


async def measure(case: Case, model: Path) -> None:
    """One fresh system, one cold request, one warm one."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as temporary:
        folder = Path(temporary)
        file = write(folder / "functions.yaml", function("smollm2", model))
        rate = f"{case.rate}MB/s"
        link = ("--shared-link", rate) if case.shared else ("--link-rate", rate)
        script = ROOT / "e2e" / "bench" / "equal_cut.py" if case.equal else None
        with running(folder / "state", [file], workers=case.workers, more=link, script=script) as system:
            began = time.monotonic()
            await system.ready(case.workers)
            case.ready.append(time.monotonic() - began)
            await at_rest(system, [model], case.workers)
            async with followed(system) as footprints:
                await cold_then_warm(case, system)
            case.memory.append(worst(footprints))


async def cold_then_warm(case: Case, system: System) -> None:
    case.client.append(await first_token(system))
    seen = await system.until(
        lambda seen: (
            bool(seen["coldStarts"])
            and None not in (seen["coldStarts"][0]["servableAt"], seen["coldStarts"][0]["firstTokenAt"])
        ),
        "servable, and a first token",
    )
    note(case, seen["coldStarts"][0])
    await system.until(lambda seen: seen["coldStarts"][0]["consolidatedAt"] is not None, "consolidated")
    case.compute.append(await first_token(system, prefix="Please. "))


def note(case: Case, cold: dict[str, Any]) -> None:
    begun = cold["firstByteAt"]
    case.asked.append(begun - cold["queuedAt"])
    case.servable.append(cold["servableAt"] - begun)
    case.first.append(cold["firstTokenAt"] - begun)
    case.predicted.append((cold["predicted"]["servable"], cold["predicted"]["firstToken"]))
    case.stages.append(len(cold["stages"]))


async def first_token(system: System, prefix: str = "") -> float:
    """Seconds from sending a request to its first piece of text."""
    began = time.monotonic()
    async with system.client() as client:
        after = [time.monotonic() - began async for _ in pieces(client, "smollm2", prefix + PROMPT, max_tokens=4)]
    return after[0]


def plain(model: Path, rate: int) -> float:
    script = ROOT / "e2e" / "bench" / "plain_transformers.py"
    words = [sys.executable, str(script), str(model), str(rate * 1e6), PROMPT]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def row(case: Case, size: float) -> list[str]:
    median = statistics.median
    load, compute = size / (case.rate * 1e6), median(case.compute)
    links = 1 if case.shared else case.workers
    law = compute + max(0.0, load - compute) / links
    most = max(case.memory, key=lambda each: each.ratio)
    servable, first = median(case.servable), median(case.first)
    said_servable, said_first = (median(values) for values in zip(*case.predicted, strict=True))
    return [
        f"{case.rate} MB/s, {case.name}",
        str(round(median(case.stages))),
        f"{servable:.2f} ({load / links:.2f})",
        f"{servable / said_servable:.2f}",
        f"{first:.2f} ({law:.2f})",
        f"{first / law:.2f}",
        f"{first / said_first:.2f}",
        f"{median(case.client):.2f}",
        f"{median(case.asked) * 1e3:.0f}",
        f"{median(case.ready):.1f}",
        f"{most.above / 1e6:.0f} ({most.units / 1e6:.0f})",
        f"{most.ratio:.2f}",
    ]


TITLES = [
    "links",
    "stages",
    "servable s (floor)",
    "÷ predicted",
    "first token s (law)",
    "÷ law",
    "÷ predicted",
    "seen by client s",
    "request ▸ first byte ms",
    "up ▸ workers ready s",
    "peak MB above bare (units)",
    f"÷ units (at most {MOST})",
]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[50, 200], help="MB/s per link (default 50 200)")
    parser.add_argument("--repeat", type=int, default=3, help="times each case is measured, interleaved (default 3)")
    beside = "in a cluster of the test bed beside local mode, two workers each; all else is left out"
    parser.add_argument("--cluster", action="store_true", help=beside)
    given = parser.parse_args()
    if given.cluster:
        from in_cluster import compare  # it needs the test bed's parts

        await compare(given.rates, given.repeat, PROMPT)
        return
    model = real_smollm2()
    size = float(sum(path.stat().st_size for path in model.glob("*.safetensors")))
    measured = list(cases(given.rates))
    bare: dict[int, list[float]] = {rate: [] for rate in given.rates}
    for _ in range(given.repeat):
        for case in measured:
            await measure(case, model)
            print(f"… {case.rate} MB/s, {case.name}: first token {case.first[-1]:.2f} s", file=sys.stderr)
        for rate, seconds in bare.items():
            seconds.append(plain(model, rate))
    print(heading(f"Cold start of SmolLM2-135M-Instruct, fp32, {size / 1e6:.0f} MB, median of {given.repeat}"))
    print(table(TITLES, [row(case, size) for case in measured]))
    print()
    for rate, seconds in bare.items():
        mine = statistics.median(next(case for case in measured if (case.rate, case.workers) == (rate, 4)).client)
        plainly = statistics.median(seconds)
        print(
            f"plain transformers at {rate} MB/s, fresh process to first token: "
            f"{plainly:.2f} s = {plainly / mine:.1f} × ours"
        )


if __name__ == "__main__":
    asyncio.run(main())
