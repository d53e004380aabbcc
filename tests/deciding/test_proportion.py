"""A decision about ten times as many functions takes ten times as many steps of the machine, and not more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from deciding.loads import NOW, load
from deciding.values import function, model, pipeline, snapshot, worker
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.load import Measured
from forebay_operator.decide.plan import next_steps
from forebay_operator.decide.seen import DemandSeen, FunctionSeen, HoldingSeen, Snapshot

WORKERS = 16


def calls(work: Callable[[], object]) -> int:
    """How many functions ``work`` calls."""
    count = 0

    def count_one(frame: FrameType, event: str, given: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count_one)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def fleet(functions: int) -> Snapshot:
    """One of ten is in use and served by one worker; the others have been idle for an hour."""
    served = range(functions // 10)
    whole = HoldingSeen(frozenset(range(6)))
    workers = [
        replace(worker(f"w{place:02}"), holdings={f"m{n}": whole for n in served if n % WORKERS == place})
        for place in range(WORKERS)
    ]
    pipelines = [
        pipeline(Stage(f"w{n % WORKERS:02}", 0, 5), counter=n + 1, running=1, backbone=f"m{n}") for n in served
    ]
    seen = snapshot(
        [asked(number, number in served) for number in range(functions)],
        workers,
        [model(f"m{number}") for number in range(functions)],
    )
    return replace(seen, pipelines=tuple(pipelines), next_epoch=Epoch(1, functions))


def asked(number: int, active: bool) -> FunctionSeen:
    level = 5.0 if active else 0.0
    demand = DemandSeen(in_flight=int(level), load=load(level), last_ended=NOW - (1 if active else 3600))
    return replace(function(f"f{number:04}", backbone=f"m{number}", demand=demand), measured=Measured(load(level)))


def test_it_grows_as_the_functions_do() -> None:
    small, large = fleet(100), fleet(1000)
    assert calls(lambda: next_steps(large, NOW)) < 12 * calls(lambda: next_steps(small, NOW))
