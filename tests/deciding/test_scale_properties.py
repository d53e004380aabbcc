"""What holds of every scaling decision, whatever was measured; courses go through the window that the operator has."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil, floor
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deciding.loads import NOW, OWN, TEN, Course, asked, load
from forebay_api.function import Scaling, ScalingMetric
from forebay_operator.decide.load import Load, Measured, Memory
from forebay_operator.decide.scale import Scale, Why, desired
from forebay_operator.decide.seen import FunctionSeen

amounts = st.floats(0, 1000) | st.integers(0, 40).map(float)
loads = st.builds(Load, amounts, amounts, st.floats(0, 60) | st.just(60.0), st.floats(0, NOW))
measured = st.none() | st.builds(Measured, st.none() | loads, st.none() | st.just(("StaleSamples", "too old")))
counts = st.integers(0, 40)
leads = st.floats(0, 300)
scalings = st.builds(
    lambda low, more, up, down, delay, own, metric: replace(
        OWN if own else TEN,
        min_replicas=low,
        max_replicas=max(low + more, 1),
        max_scale_up_rate=up,
        max_scale_down_rate=down,
        scale_down_delay_seconds=delay,
        metric=metric,
    ),
    counts,
    counts,
    st.floats(1.01, 10),
    st.floats(1.01, 10),
    st.sampled_from([0, 30]),
    st.booleans(),
    st.sampled_from(ScalingMetric),
)
memories = st.builds(
    lambda last, panics, began, base, peaks: Memory(
        last=last,
        panic_until=NOW + 20 if panics else 0.0,
        panic_peak=last or 0 if panics else 0,
        tick_began=NOW - began,
        tick_base=base,
        peaks=tuple((NOW - 40 + 5 * place, count) for place, count in enumerate(sorted(peaks, reverse=True))),
    ),
    st.none() | counts,
    st.booleans(),
    st.floats(0, 4),
    counts,
    st.sets(counts, max_size=5),
)
functions = st.builds(
    lambda requests, counted, measured, scaling, memory, blind, ended: asked(
        requests, counted, measured=measured, scaling=scaling, memory=memory, blind=blind, ended=ended
    ),
    st.integers(0, 500),
    loads,
    measured,
    scalings,
    memories,
    st.booleans(),
    st.just(0.0) | st.floats(NOW - 60, NOW),
)


def more(seen: FunctionSeen, *, stable: float = 1.0, panic: float = 1.0, requests: float = 1.0) -> FunctionSeen:
    """``seen`` with so many times the load."""

    def grown(load: Load) -> Load:
        return replace(load, stable=load.stable * stable, panic=load.panic * panic)

    demand = replace(seen.demand, load=grown(seen.demand.load), in_flight=round(seen.demand.in_flight * requests))
    known = seen.measured
    if known is not None and known.load is not None:
        known = replace(known, load=grown(known.load))
    return replace(seen, demand=demand, measured=known)


@given(functions, counts, leads, st.floats(1, 20))
def test_more_demand_never_means_fewer(seen: FunctionSeen, current: int, lead: float, times: float) -> None:
    before = desired(seen, NOW, current, lead).desired
    assert desired(more(seen, stable=times, panic=times, requests=times), NOW, current, lead).desired >= before
    assert desired(more(seen, panic=times), NOW, current, lead).desired >= before
    assert desired(more(seen, requests=times), NOW, current, lead).desired >= before
    calm = desired(seen, NOW, current).desired
    assert desired(more(seen, stable=times), NOW, current).desired >= calm


@given(functions, counts, leads)
def test_it_stays_within_its_bounds(seen: FunctionSeen, current: int, lead: float) -> None:
    scale, scaling = desired(seen, NOW, current, lead), seen.function.spec.scaling
    assert scaling.min_replicas <= scale.desired <= scaling.max_replicas
    assert scale.desired > 0 or not seen.demand.in_flight
    assert scale.wake_at is None or scale.wake_at > NOW
    assert 0 <= scale.load <= max(scale.desired, 0)
    assert scale.ceiling == scaling.max_replicas
    base, last = scale.memory.tick_base, seen.memory.last or 0
    most = max(ceil(max(base, 1) * scaling.max_scale_up_rate), last, current)
    delayed = [count for _, count in seen.memory.peaks] if scaling.scale_down_delay_seconds else []
    assert scale.desired <= max(most, scaling.min_replicas, *delayed)
    assert scale.desired >= min(floor(base / scaling.max_scale_down_rate), most, scaling.max_replicas)


@given(functions, counts, leads)
def test_blind_never_goes_down(seen: FunctionSeen, current: int, lead: float) -> None:
    known = seen.measured
    if seen.demand.blind or (known is not None and (known.trouble or known.load is None)):
        scale = desired(seen, NOW, current, lead)
        assert scale.desired >= min(max(current, seen.memory.last or 0), seen.function.spec.scaling.max_replicas)


@given(functions, counts, leads)
def test_asked_again_at_the_same_moment_it_says_the_same(seen: FunctionSeen, current: int, lead: float) -> None:
    first = desired(seen, NOW, current, lead)
    again = desired(replace(seen, memory=first.memory), NOW, current, lead)
    assert again.desired >= first.desired  # what was granted may outlive the reason; it never falls without time
    third = desired(replace(seen, memory=again.memory), NOW, current, lead)
    assert (third.desired, third.memory) == (again.desired, again.memory)


@given(functions, counts, leads)
def test_what_is_remembered_is_bounded(seen: FunctionSeen, current: int, lead: float) -> None:
    memory = desired(seen, NOW, current, lead).memory
    counts = [count for _, count in memory.peaks]
    assert counts == sorted(set(counts), reverse=True)
    assert [at for at, _ in memory.peaks] == sorted(at for at, _ in memory.peaks)
    assert all(NOW - 30 < at <= NOW for at, _ in memory.peaks)
    assert not memory.panic_until or NOW < memory.panic_until <= NOW + 60
    assert NOW - 2 < memory.tick_began <= NOW or not memory.tick_base


@given(functions, counts, st.floats(0, 100), st.floats(0, 100))
def test_who_loads_longer_is_never_told_later(seen: FunctionSeen, current: int, lead: float, longer: float) -> None:
    assert desired(seen, NOW, current, lead + longer).desired >= desired(seen, NOW, current, lead).desired


def noisy(level: float, seed: int, sample: float) -> list[float]:
    """A constant load with noise of a fifth, another value every ``sample`` seconds."""
    random = Random(seed)
    return [level * random.uniform(0.8, 1.2) for _ in range(int(2000 / sample))]


@settings(max_examples=50)  # each is thirteen minutes of decisions
@example(186.0, 104, 5.0, 0.0)  # after three minutes 23 from the first peak, then 22, then 21
@given(st.floats(3, 200), st.integers(0, 10**6), st.sampled_from([1.0, 5.0]), st.sampled_from([0.0, 40.0]))
def test_a_constant_load_with_noise_makes_nothing_come_and_go(
    level: float, seed: int, sample: float, lead: float
) -> None:
    course, values = Course(lead=lead), noisy(level, seed, sample)
    course.run(180, lambda at: values[int(at / sample)])
    settled = course.run(600, lambda at: values[int((at + 180) / sample)])
    changes = [other - one for one, other in pairwise(settled) if other != one]
    assert len({change > 0 for change in changes}) <= 1, "what came went again, or the other way round"
    assert len(changes) <= 2, "of 2,000 courses one still comes down from its first peak by two"
    assert settled[-1] >= ceil(level * 0.94 / 10)


@settings(max_examples=50)  # likewise
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([0.0, 8.0]))
def test_it_converges_within_two_windows(before: int, after: int, loading: float) -> None:
    course = Course(loading=loading)
    course.run(180, lambda _: before)
    found = course.run(240, lambda _: after)
    enough = min(ceil(after / 10), 100)
    within = found[120:]
    assert len(set(within)) == 1
    assert enough <= within[0] <= min(max(ceil(after / 8), enough), 100)


@pytest.mark.parametrize("loading", [0.0, 20.0])
def test_a_step_and_its_end(loading: float) -> None:
    """Up within the panic window and what loading takes, and not below what is needed at any time after."""
    course = Course(loading=loading)
    course.run(120, lambda _: 8)
    up = course.run(120, lambda _: 60)
    assert up[0] == 1
    assert up[7] >= 6
    assert min(up[7:]) >= 6
    down = course.run(240, lambda _: 8)
    assert sorted(down, reverse=True) == down
    assert min(down[:30]) >= 5, "the long mean goes down slowly, and the panic of the step may last"
    assert down[-1] == 1


def test_a_ramp_is_met_earlier_by_who_loads_longer() -> None:
    def reached(lead: float) -> float:
        course = Course(lead=lead)
        course.run(120, lambda _: 10)
        found = course.run(120, lambda at: 10 + at)
        return next(at for at, count in enumerate(found) if count >= 6)

    assert reached(40.0) + 10 <= reached(2.0)


def test_a_burst_that_found_nothing_serving_is_met_at_once() -> None:
    course = Course(loading=5.0)
    course.run(60, lambda _: 0)
    assert course.run(6, lambda _: 45) == [5] * 6


def test_every_reason_is_reached_in_a_life() -> None:
    course = Course(scaling=replace(TEN, max_replicas=8), loading=3.0, lead=30.0)
    course.run(30, lambda _: 0)
    course.run(200, lambda at: 3 + at / 4)
    course.run(200, lambda _: 5)
    course.run(100, lambda _: 90)
    reasons = {scale.reason for scale in course.scales}
    assert reasons >= {Why.NO_REQUEST_YET, Why.REQUESTS, Why.MEAN, Why.TREND, Why.PANIC}
    assert all(isinstance(scale, Scale) and scale.message for scale in course.scales)


def test_the_window_is_the_functions_own() -> None:
    short, long = (
        Course(scaling=Scaling(target=10.0, target_utilization_percent=100, max_replicas=9, window_seconds=seconds))
        for seconds in (20, 200)
    )
    for course in (short, long):
        course.run(400, lambda _: 30)
        course.run(30, lambda _: 2)
    assert short.scales[-1].desired < long.scales[-1].desired


def test_prometheus_recovers_and_only_then_anything_goes() -> None:
    memory, seen = Memory(last=6), load(2.0)
    trouble = Measured(None, ("PrometheusUnreachable", "connection refused"))
    for second in range(0, 600, 2):
        scale = desired(asked(2, seen, measured=trouble, memory=memory), NOW + second, 6)
        memory = scale.memory
        assert scale.desired == 6
    counts = []
    for second in range(600, 620, 2):
        scale = desired(asked(2, seen, measured=Measured(seen), memory=memory), NOW + second, 6)
        memory = scale.memory
        counts.append(scale.desired)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= 3
