"""What a function says of its pool: that it does not exist, or that nobody of it is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deciding.values import NOW, function, snapshot, worker
from forebay_api.conditions import ConditionType, Reason
from forebay_operator import status
from forebay_operator.decide.plan import Plan, next_steps
from forebay_operator.decide.seen import Snapshot
from forebay_operator.estate import Estate
from forebay_operator.status import Statuses, Urls

OTHERS = replace(worker("big-0"), pool="big")
NOTHING = Plan((), {})


def said(seen: Snapshot, plan: Plan = NOTHING) -> dict[ConditionType, tuple[str, str, str]]:
    found = status.look(seen.functions[0], seen, (), plan)
    key = seen.functions[0].function.key
    of = Statuses(Urls("http://gateway", "")).take({key: found}, 0.0)[key]
    return {each.type: (each.status, each.reason, each.message) for each in of.conditions}


@pytest.mark.parametrize(
    ("pools", "workers", "ready", "resources"),
    [
        (
            frozenset({"big"}),
            [OTHERS],
            ("False", Reason.POOL_NOT_FOUND, "there is no WorkerPool default where the operator runs"),
            ("False", Reason.POOL_NOT_FOUND, "there is no WorkerPool default where the operator runs"),
        ),
        (
            frozenset({"big", "default"}),
            [OTHERS],
            ("Unknown", Reason.NO_WORKER, "no worker of pool default is attached"),
            ("False", Reason.INSUFFICIENT_GPUS, "no worker of pool default is attached"),
        ),
        (
            None,
            [],
            ("Unknown", Reason.NO_WORKER, "no worker is attached"),
            ("False", Reason.INSUFFICIENT_GPUS, "no worker is attached"),
        ),
    ],
)
def test_who_is_missing(
    pools: frozenset[str] | None, workers: list[object], ready: tuple[str, ...], resources: tuple[str, ...]
) -> None:
    seen = replace(snapshot([function()]), workers=tuple(workers), pools=pools)  # type: ignore[arg-type]
    told = said(seen)
    assert told[ConditionType.READY] == ready
    assert told[ConditionType.RESOURCES_AVAILABLE] == resources


@pytest.mark.parametrize(
    ("wanted", "lacks"), [(2, ""), (3, "3 replicas are wanted, and each takes one worker at least: ")]
)
def test_more_replicas_than_workers_are_too_many(wanted: int, lacks: str) -> None:
    seen = snapshot([function(replicas=wanted)], [worker("w0"), worker("w1")])
    told = said(seen, plan=next_steps(seen, NOW))
    expected = ("False", Reason.INSUFFICIENT_GPUS, f"{lacks}2 are ready") if lacks else ("True", Reason.AVAILABLE, "")
    assert told[ConditionType.RESOURCES_AVAILABLE] == expected
    assert told[ConditionType.READY][0] == "True", "it answers all the same"


def test_a_source_that_is_away_is_said() -> None:
    trouble = ("SourceUnavailable", "hf://o/m: the hub does not answer")
    away = replace(function(backbone=""), trouble=trouble)
    told = said(snapshot([away], [worker("w0")]))
    assert told[ConditionType.MODEL_RESOLVED] == ("Unknown", *trouble)
    assert told[ConditionType.READY] == ("Unknown", *trouble)
    assert told[ConditionType.STALLED][0] == "False"


def test_a_sick_worker_is_not_ready_and_the_rest_is_as_it_says() -> None:
    estate = Estate({"w0": "big"}, frozenset({"w1"}))
    assert estate.known(worker("w0")) == replace(worker("w0"), pool="big")
    assert estate.known(worker("w1")) == replace(worker("w1"), ready=False)
