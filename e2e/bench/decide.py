"""How long does one decision take? All functions of a cluster, from the snapshot to the steps, beside the limit."""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "tests")]

from bench.machine import heading, table  # noqa: E402  # the path is made above

from deciding.values import function, model, pipeline, snapshot, worker  # noqa: E402
from forebay_api.model import Epoch, Stage  # noqa: E402
from forebay_operator.decide import lead, routes  # noqa: E402
from forebay_operator.decide.gauge import rises  # noqa: E402
from forebay_operator.decide.load import Load, Measured  # noqa: E402
from forebay_operator.decide.plan import Plan, next_steps  # noqa: E402
from forebay_operator.decide.scale import desired  # noqa: E402
from forebay_operator.decide.seen import (  # noqa: E402
    DemandSeen,
    FunctionSeen,
    HoldingSeen,
    PipelineSeen,
    Snapshot,
    WorkerSeen,
)

NOW = 100_000.0
LIMIT = 0.05
"""Seconds that one decision of 1,000 functions may take. It waits for nothing: where nothing else runs, the processor's
clock and the wall's say the same."""

TITLES = [
    "functions",
    "active",
    "workers",
    "lack a device",
    "decision",
    "of it scaling",
    "by the wall's clock",
    "steps",
    "limit",
]

UNITS = (10**8, *[2 * 10**8] * 32, 10**8)


ROOMY, FULL = 40 * 10**9, 15 * 10**9
"""Bytes of a device's memory: there is room for more than the two models that each one holds, or there is none."""


@dataclass(frozen=True, slots=True)
class Case:
    functions: int
    active: int
    workers: int
    memory: int = ROOMY


def fleet(case: Case) -> Snapshot:
    """Each function has a model of its own, of 34 units; the ``active`` ones are in use and serve on one worker each,
    as many as there is room for two on a worker. The others lack a device."""
    functions, active, workers = case.functions, case.active, case.workers
    models = [model(f"m{number:04}", UNITS) for number in range(functions)]
    serving = min(active, 2 * workers)
    names = [[f"m{number:04}" for number in range(serving) if number % workers == place] for place in range(workers)]
    asked = [_function(number, number < active) for number in range(functions)]
    seen = snapshot(asked, [_worker(place, held, case.memory) for place, held in enumerate(names)], models)
    return replace(
        seen, pipelines=tuple(_pipeline(number, workers) for number in range(serving)), next_epoch=Epoch(1, 9999)
    )


def _function(number: int, active: bool) -> FunctionSeen:
    level = float(1 + number % 9) if active else 0.0
    load = Load(level, level, 60.0, NOW)
    demand = DemandSeen(in_flight=int(level), load=load, last_ended=NOW - (1 if active else 3600))
    return replace(function(f"f{number:04}", backbone=f"m{number:04}", demand=demand), measured=Measured(load))


def _worker(place: int, held: list[str], memory: int) -> WorkerSeen:
    whole = HoldingSeen(frozenset(range(len(UNITS))))
    return replace(worker(f"w{place:02}", memory=memory, rate=10**9), holdings=dict.fromkeys(held, whole))


def _pipeline(number: int, workers: int) -> PipelineSeen:
    stage = Stage(f"w{number % workers:02}", 0, len(UNITS) - 1)
    return pipeline(stage, counter=number + 1, running=1, backbone=f"m{number:04}")


def scaling(seen: Snapshot) -> None:
    """What `next_steps` does first."""
    leads = lead.leads(seen, filter(rises, seen.functions))
    for one in seen.functions:
        desired(one, NOW, routes.replicas(seen, one.serving), lead.of(one, leads))


def cold(seen: Snapshot) -> Snapshot:
    """The same, that nobody looked at yet: what a snapshot works out once counts, too."""
    return replace(seen)


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds: medians of decisions and of the scaling in them, by the processor's clock and by the wall's."""

    whole: float
    scaled: float
    wall: float
    plan: Plan


def measure(case: Case, repeat: int) -> Taken:
    seen = fleet(case)
    plan = next_steps(cold(seen), NOW)
    seen = replace(
        seen,
        functions=tuple(replace(one, memory=plan.scales[one.function.key].memory) for one in seen.functions),
        turns=plan.turns,
    )
    whole, scaled, wall = [], [], []
    gc.disable()
    for _ in range(repeat):
        fresh = cold(seen)
        began, began_at = process_time(), perf_counter()
        plan = next_steps(fresh, NOW + 1)
        whole.append(process_time() - began)
        wall.append(perf_counter() - began_at)
        fresh = cold(seen)
        began = process_time()
        scaling(fresh)
        scaled.append(process_time() - began)
        gc.collect()
    gc.enable()
    return Taken(statistics.median(whole), statistics.median(scaled), statistics.median(wall), plan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=1000)
    parser.add_argument("--active", type=int, default=100)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--lacking", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    most = 2 * given.workers + given.lacking
    cases = (
        ("none", Case(given.functions // 10, given.active // 10, given.workers)),
        ("none", Case(given.functions, given.active, given.workers)),
        (f"{given.lacking}, there is room", Case(given.functions, most, given.workers)),
        (f"{given.lacking}, all are full", Case(given.functions, most, given.workers, FULL)),
        ("none", Case(given.functions, given.functions, given.functions // 2)),
    )
    rows, exceeded = [], False
    for lacking, case in cases:
        taken = measure(case, given.repeat)
        shown = [f"{seconds * 1e3:.1f} ms" for seconds in (taken.whole, taken.scaled, taken.wall)]
        kept = taken.whole <= LIMIT
        exceeded |= not kept
        counts = [str(case.functions), str(case.active), str(case.workers), lacking]
        rows.append([*counts, *shown, str(len(taken.plan.steps)), "kept" if kept else "exceeded"])
    print(heading(f"one decision, from the snapshot to the steps: medians of {given.repeat}"))
    print(table(TITLES, rows))
    print(f"\nlimit: {LIMIT * 1e3:.0f} ms of the processor; each worker serves two functions at most")
    return 1 if exceeded else 0


if __name__ == "__main__":
    raise SystemExit(main())
