"""What holds for every run: it repeats, nothing is lost, and policies are what they are called."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest
from sim.fleet import Fleet
from sim.hardware import Hardware
from sim.models import sized
from sim.outcome import Outcome
from sim.policies import AlwaysOn, KeepAlive, Knative, Oracle, Ours, Policy
from sim.report import Case, compare, verdict

from forebay_api.function import Scaling
from sim import traces

POLICIES: dict[str, Callable[[], Policy]] = {
    "forebay": Ours,
    "knative": Knative,
    "keep-alive": KeepAlive,
    "always-on": lambda: AlwaysOn([3] * 60),
    "oracle": Oracle,
}


def run(policy: Policy, loads: tuple[traces.Load, ...], *, hours: float = 0.25, gpus: int = 32) -> Outcome:
    fleet = Fleet(Hardware(gpus=gpus), loads, policy, hours * 3600, sized, Scaling(max_replicas=16))
    outcome = fleet.run()
    assert not any(function.requests or function.held for function in fleet.functions)
    assert outcome.most <= gpus or policy.instant
    return outcome


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("trace", ["azure-code", "burstgpt"])
def test_every_request_ends_once_and_every_second_is_counted_once(name: str, trace: str) -> None:
    loads = traces.services(trace, 3, 5)
    outcome = run(POLICIES[name](), loads)
    assert outcome.asked == sum(len(load.until(900)) for load in loads)
    assert outcome.ended + outcome.refused == outcome.asked
    assert len(outcome.firsts) == outcome.ended
    assert min(outcome.firsts) > 0
    assert outcome.device_seconds == pytest.approx(outcome.integral)


@pytest.mark.parametrize("name", POLICIES)
def test_a_run_repeats(name: str) -> None:
    loads = traces.many(60, 3)
    first, again = (run(POLICIES[name](), loads) for _ in range(2))
    assert (first.firsts, first.device_seconds, first.events) == (again.firsts, again.device_seconds, again.events)


@pytest.mark.parametrize("trace", ["azure-code", "azure-functions"])
def test_decisions_that_are_left_out_would_have_changed_nothing(trace: str) -> None:
    loads = traces.many(40, 3) if trace == "azure-functions" else traces.services(trace, 3, 5)
    thrifty, thorough = (run(Ours(thrift=thrift), loads) for thrift in (True, False))
    assert thrifty.firsts == thorough.firsts
    assert thrifty.device_seconds == pytest.approx(thorough.device_seconds)
    assert thrifty.checks < thorough.checks


def test_always_on_has_no_cold_request() -> None:
    outcome = run(AlwaysOn([3] * 3), traces.services("azure-code", 3, 5))
    assert outcome.cold == 0
    assert outcome.device_seconds == pytest.approx(9 * 900)


def test_the_oracle_needs_least_and_waits_for_nothing() -> None:
    loads = traces.services("azure-code", 3, 5)
    oracle = run(Oracle(), loads)
    for name in ("forebay", "knative", "keep-alive", "always-on"):
        assert run(POLICIES[name](), loads).device_seconds > oracle.device_seconds
    assert oracle.cold == 0


def test_more_grace_is_fewer_cold_requests_and_more_devices() -> None:
    case = Case("t", Hardware(gpus=32), traces.services("azure-code", 3, 5), 1800, Scaling(max_replicas=16))
    short, long = (case.run(Ours(), scale_to_zero_grace_period_seconds=grace) for grace in (5, 120))
    assert short.cold > long.cold
    assert short.device_seconds < long.device_seconds


@pytest.mark.parametrize("name", ["forebay", "knative", "keep-alive"])
def test_devices_that_are_short_go_round(name: str) -> None:
    """Twelve functions on four devices: all are served, none starves for long."""
    loads = traces.services("burstgpt", 12, 5, scale=0.05)
    outcome = run(POLICIES[name](), loads, hours=0.5, gpus=4)
    assert outcome.ended == outcome.asked
    assert outcome.quantile(1.0) < 300


def test_a_fleet_without_devices_refuses_in_time() -> None:
    """One device, and somebody else has requests on it without an end."""
    busy = traces.Load("busy", "8b", "", recorded=tuple((float(at), 2000, 800) for at in range(0, 900, 2)))
    late = traces.Load("late", "8b", "", recorded=((10.0, 100, 10),))
    outcome = run(Knative(), (busy, late), gpus=1)
    assert outcome.ended + outcome.refused == outcome.asked


def made(policy: str, devices: float, wait: float) -> Outcome:
    return Outcome(policy, 1.0, firsts=array("d", [wait]), device_seconds=devices)


@pytest.mark.parametrize(
    ("mine", "other", "won"),
    [
        ((50.0, 1.0), (100.0, 1.0), True),
        ((100.0, 0.5), (100.0, 1.0), True),
        ((100.0, 1.0), (100.0, 1.0), False),
        ((50.0, 2.0), (100.0, 1.0), False),
        ((200.0, 0.5), (100.0, 1.0), False),
    ],
)
def test_a_verdict_needs_equal_p99_or_equal_devices(
    mine: tuple[float, float], other: tuple[float, float], won: bool
) -> None:
    sentence = verdict([made("forebay", *mine)], made("knative", *other))
    assert sentence.startswith("forebay beats knative" if won else "forebay does NOT beat knative")


def test_a_comparison_names_every_policy() -> None:
    case = Case("t", Hardware(gpus=16), traces.services("burstgpt", 1, 5), 300, Scaling())
    found = compare(case, ("forebay", "knative", "keep-alive", "always-on"), variants=("grace=60,target=8",))
    assert [row[0] for row in found.rows()] == [
        "forebay",
        "forebay grace=60,target=8",
        "knative",
        "keep-alive",
        "always-on",
    ]
    assert len(found.verdicts()) == 3
