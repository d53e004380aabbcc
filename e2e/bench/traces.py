"""Does the simulator tell the truth? Slices of each arrival process in real time, beside what it says of them.

Three functions share four workers of local mode on emulated links. Before each slice this machine is measured: seconds
of a step by its tokens, seconds of a request beside computing, what a link gives. The slice is played, and simulated
with those numbers: first token and device-seconds of both, side by side. A device-second is a second in which a worker
holds or loads units of a function, sampled twice a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from machine import ROOT, at_rest, heading, table

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "e2e"))

from calibrate import Calibration, ask, calibrate
from sim.fleet import Fleet
from sim.hardware import Hardware
from sim.outcome import Outcome
from sim.policies import Ours
from slices import FUNCTIONS, Slice, cut

from checkpoints import real_smollm2
from forebay_api.function import Scaling
from local.system import System, function, running, write
from sim import traces

WORKERS = 4
SAMPLE = 0.5
TITLES = [
    "trace",
    "requests",
    "p50 s real",
    "sim",
    "÷",
    "p99 s real",
    "sim",
    "÷",
    "device-s real",
    "sim",
    "÷",
    "cold starts real",
    "sim",
    "failed",
]


@dataclass
class Played:
    """What was measured, in seconds."""

    firsts: list[float] = field(default_factory=list)
    device_seconds: float = 0.0
    starts: int = 0
    failed: int = 0
    latest: float = 0.0  # by how much a request was sent too late at most

    def quantile(self, share: float) -> float:
        ordered = sorted(self.firsts)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def models(folder: Path) -> list[Path]:
    """Three models of one shape that are not one backbone."""
    original = real_smollm2()
    copies = []
    for i in range(FUNCTIONS):
        copy = folder / f"smollm2-{i}"
        copy.mkdir()
        for path in original.iterdir():
            shutil.copyfile(path, copy / path.name)
        # One byte of the last weights: another model to everybody who compares them.
        with (copy / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(bytes([i]))
        copies.append(copy)
    return copies


@contextlib.contextmanager
def up(folders: list[Path], scaling: Scaling, link: float) -> Iterator[System]:
    """Four workers, all functions at zero."""
    told = {
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "target": scaling.target,
        "scaleToZeroGracePeriodSeconds": scaling.scale_to_zero_grace_period_seconds,
    }
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as temporary:
        bodies = [function(f"f{i}", folder, scaling=told) for i, folder in enumerate(folders)]
        file = write(Path(temporary) / "functions.yaml", *bodies)
        with running(Path(temporary) / "state", [file], workers=WORKERS, link_rate=f"{link / 1e6:g}MB/s") as system:
            yield system


@contextlib.asynccontextmanager
async def observed(system: System, note: Callable[[dict[str, Any]], None]) -> AsyncIterator[None]:
    """``note`` gets what is seen, every ``SAMPLE`` seconds until this is left."""

    async def look() -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            note(await system.look())

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        yield
        looking.cancel()


async def measured(folders: list[Path], link: float, repeat: int) -> Calibration:
    """One replica, whatever is asked at once: what is measured is one worker's."""
    alone = Scaling(max_replicas=1, target=100.0, scale_to_zero_grace_period_seconds=600)
    with up(folders, alone, link) as system:
        await at_rest(system, folders, WORKERS)
        async with observed(system, lambda _: None):  # as it will be when a slice is played
            return await calibrate(system, "f0", link, repeat)


async def play(system: System, part: Slice, seconds: float) -> Played:
    """Every request at its time; devices are counted until ``seconds`` are over, requests until they end."""
    played = Played()
    began = time.monotonic()

    async def one(name: str, at: float, prompt: int, answer: int) -> None:
        await asyncio.sleep(began + at - time.monotonic())
        played.latest = max(played.latest, time.monotonic() - began - at)
        try:
            first, _ = await ask(system, name, prompt, answer)
        except openai.OpenAIError as error:
            played.failed += 1
            print(f"… {name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
        else:
            played.firsts.append(first)

    last = began

    def note(seen: dict[str, Any]) -> None:
        nonlocal last
        if last >= began + seconds:
            return
        now = min(time.monotonic(), began + seconds)
        held = sum(len(set(worker["holds"]) | set(worker["loading"])) for worker in seen["workers"])
        played.device_seconds += held * (now - last)
        played.starts = len(seen["coldStarts"])
        last = now

    asked = [one(f"f{i}", *request) for i, requests in enumerate(part.requests) for request in requests]
    async with observed(system, note):
        await asyncio.gather(asyncio.sleep(seconds), *asked)
    note(await system.look())
    return played


def simulate(part: Slice, seconds: float, found: Calibration, scaling: Scaling) -> Outcome:
    """The same requests on the same fleet, with the calibrated numbers."""
    hardware = Hardware(
        gpus=WORKERS,
        per_node=WORKERS,
        link=found.link,
        bucket=0.0,
        memory=2**40,
        places=FUNCTIONS,
        start=found.start,
        shared=True,
        staged=found.staged,
    )
    return Fleet(hardware, part.loads("measured"), Ours(), seconds, lambda _: found.kind, scaling).run()


def row(part: Slice, played: Played, simulated: Outcome, found: Calibration) -> list[str]:
    cells = [part.name, str(part.count)]
    pairs = [(played.quantile(share), simulated.quantile(share) + found.overhead) for share in (0.5, 0.99)]
    for real, said in [*pairs, (played.device_seconds, simulated.device_seconds)]:
        cells += [f"{real:.3g}", f"{said:.3g}", f"{said / real:.2f}" if real else "–"]
    return [*cells, str(played.starts), str(simulated.starts), str(played.failed)]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=float, default=600.0, help="of each slice (default 600)")
    add("--traces", nargs="+", choices=traces.NAMES, default=list(traces.NAMES), help="which shapes (default all)")
    add("--link", type=float, default=50.0, help="MB/s of each emulated link (default 50)")
    add("--grace", type=int, default=20, help="seconds until an idle function goes to zero (default 20)")
    add("--target", type=float, default=4.0, help="requests that one replica should have (default 4)")
    add("--seed", type=int, default=1, help="of the slices (default 1)")
    add("--repeat", type=int, default=3, help="times that each calibration is measured (default 3)")
    given = parser.parse_args()
    if given.seconds <= 0 or given.link <= 0:
        parser.error("--seconds and --link: more than 0 would be right")
    scaling = Scaling(max_replicas=WORKERS, target=given.target, scale_to_zero_grace_period_seconds=given.grace)
    rows, notes = [], []
    with tempfile.TemporaryDirectory(prefix="forebay-traces-") as temporary:
        folders = models(Path(temporary))
        for name in given.traces:
            # Just before, since the machine is not the same for an hour.
            found = await measured(folders, given.link * 1e6, given.repeat)
            print(f"… {found}", file=sys.stderr)
            part = cut(name, given.seconds, given.seed, found.kind)
            print(f"… {part}", file=sys.stderr)
            with up(folders, scaling, given.link * 1e6) as system:
                await at_rest(system, folders, WORKERS)
                played = await play(system, part, given.seconds)
            rows.append(row(part, played, simulate(part, given.seconds, found, scaling), found))
            print(f"… {' '.join(rows[-1])}", file=sys.stderr)
            notes.append(f"- {part}; sent at most {1e3 * played.latest:.0f} ms late\n  {found}")
    what = f"{given.seconds:g} s of each arrival process: local mode beside the simulator"
    print(heading(f"{what}, {FUNCTIONS} × SmolLM2-135M, {WORKERS} workers, {given.link:g} MB/s a link"))
    print(table(TITLES, rows))
    print("\n÷ is simulated over real: 0.85 to 1.15 is what is asked for")
    print("\n".join(notes))


if __name__ == "__main__":
    asyncio.run(main())
