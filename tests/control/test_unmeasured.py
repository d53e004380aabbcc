"""What is expected of links over which nothing came yet: what the same pool's others gave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from deciding.values import function, snapshot
from forebay_operator.decide import lead
from forebay_operator.decide.cut import Cut, best_cut
from forebay_operator.decide.seen import Costs, DemandSeen, WorkerSeen
from forebay_operator.demand import Demand
from forebay_operator.estate import Estate
from forebay_operator.fleet import Attached
from forebay_operator.functions import Functions
from forebay_operator.inspections import Inspections
from forebay_operator.reports import UNKNOWN_RATE, worker_seen
from forebay_operator.snapshot import Observer
from forebay_wire.v1 import fleet_pb2

MEASURED = 100.0
TAKES = 460 / MEASURED
"""Seconds for `deciding.values.model` over such a link."""


def observed(rates: Sequence[float], pools: Sequence[str] = ()) -> tuple[WorkerSeen, ...]:
    """What a pass sees of workers that report these rates, 0 where they loaded nothing yet."""
    reports = [
        fleet_pb2.WorkerReport(
            name=f"w{number}",
            incarnation="i",
            state="Ready",
            device=fleet_pb2.Device(kind="cpu", memory_bytes=1 << 30, link_bytes_per_second=rate),
        )
        for number, rate in enumerate(rates)
    ]
    attached = {report.name: Attached(report, worker_seen(report), 0.0, cast("Any", None)) for report in reports}
    observer = Observer(
        Functions(changed=lambda before, after: None),
        cast("Any", SimpleNamespace(workers=attached)),
        Demand(wake=lambda seconds: None, first_token=lambda *first: None),
        Inspections(),
        lambda: Estate(pools=dict(zip(attached, pools, strict=False))),
    )
    return observer.take(1, time.time()).workers


def lead_of(workers: Sequence[WorkerSeen], pool: str = "default") -> float:
    seen = snapshot([function(demand=DemandSeen(waiting=1), pool=pool)], workers)
    return lead.of(seen.functions[0], lead.leads(seen, seen.functions))


def test_a_worker_that_loaded_nothing_yet_makes_no_lead_shorter() -> None:
    assert lead_of(observed([MEASURED, MEASURED])) == TAKES
    assert lead_of(observed([MEASURED, 0.0, MEASURED])) == TAKES


def test_the_prediction_for_its_load_agrees() -> None:
    seen = snapshot([function()], observed([0.0, MEASURED]))
    cut = best_cut(seen.backbones["b"].model, Costs(), seen.workers[:1], max_stages=1, prompt_tokens=1)
    assert isinstance(cut, Cut)
    assert cut.prediction.servable == TAKES


def test_another_pool_has_other_links() -> None:
    workers = observed([MEASURED, 0.0], pools=("slow", "new"))
    assert lead_of(workers, "slow") == TAKES
    assert lead_of(workers, "new") == 460 / UNKNOWN_RATE
