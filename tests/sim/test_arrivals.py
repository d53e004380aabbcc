"""The generators, held against the published figures."""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from itertools import pairwise

import pytest
from sim.traces import Asked

from sim import traces

HOUR = 3600.0

# rate, CV of gaps, most in a second; input and output: mean, P50, P90, P99 (None: not published)
PUBLISHED = {
    "azure-code": (2.57, 13.15, 67, (2048, 1469, 5194, 7436), (28, 13, 55, 252)),
    "azure-conv": (5.53, 1.09, 16, (1155, 1020, 2735, 4142), (211, 129, 424, 601)),
    "mooncake": (3.4, None, None, (12035, 6909, None, 85401), (343, 350, None, 1120)),
}


@functools.cache
def asked(name: str, hours: float = 8.0, seed: int = 1) -> list[Asked]:
    return traces.services(name, 1, seed)[0].until(hours * HOUR)


def cv(requests: list[Asked]) -> float:
    gaps = [after[0] - before[0] for before, after in pairwise(requests)]
    return statistics.pstdev(gaps) / statistics.mean(gaps)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rate_and_burstiness(name: str) -> None:
    rate, variation, most, _, _ = PUBLISHED[name]
    requests = asked(name)
    assert len(requests) / (8 * HOUR) == pytest.approx(rate, rel=0.08)
    if variation is not None:
        assert cv(requests) == pytest.approx(variation, rel=0.10)
    if most is not None:
        seconds = Counter(int(at) for at, _, _ in requests)
        # One hour of it was published: the median of eight such.
        peaks = [max(seconds[i] for i in range(int(hour * HOUR), int((hour + 1) * HOUR))) for hour in range(8)]
        assert statistics.median(peaks) == pytest.approx(most, rel=0.30)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("side", [1, 2])
def test_lengths(name: str, side: int) -> None:
    mean, *quantiles = PUBLISHED[name][side + 2]
    lengths = sorted(request[side] for request in asked(name))
    assert statistics.mean(lengths) == pytest.approx(mean, rel=0.05)
    for share, published in zip((0.5, 0.9, 0.99), quantiles, strict=True):
        if published is not None:
            assert lengths[int(share * len(lengths))] == pytest.approx(published, rel=0.08, abs=1)


def test_lengths_know_their_mean() -> None:
    for name in traces.SHAPES:
        shape = traces.SHAPES[name]
        drawn = asked(name, hours=4)
        assert statistics.mean(request[1] for request in drawn) == pytest.approx(shape.prompts.mean(), rel=0.07)


def test_burstgpt_is_bursty_and_jumps_within_two_seconds() -> None:
    requests = asked("burstgpt", hours=24)
    assert len(requests) / (24 * HOUR) == pytest.approx(0.56, rel=0.15)
    assert cv(requests) > 1.5
    windows = Counter(int(at // 2) for at, _, _ in requests)
    assert any(windows[i + 1] >= 5 * max(windows[i], 1) for i in range(1800))


def test_burstgpts_gaps_vary_more_than_poissons_within_five_minutes_too() -> None:
    """Gamma with a CV above 1, whatever the rate is just then."""
    requests = asked("burstgpt", hours=24)
    slots = [[request for request in requests if request[0] // 300 == slot] for slot in range(288)]
    assert statistics.median(cv(slot) for slot in slots if len(slot) >= 50) > 1.25


@pytest.mark.parametrize("side", [1, 2])
def test_burstgpts_lengths_are_like_zipfs_law(side: int) -> None:
    """The longer the rarer, from 4 to 4,096 tokens: about by a power of the length, whose exponent is not published."""
    lengths = Counter(math.floor(math.log(request[side], 4)) for request in asked("burstgpt", hours=24))
    often = [math.log(lengths[power] / 4**power, 4) for power in range(1, 6)]
    assert all(after < before for before, after in pairwise(often))
    assert -1.5 < statistics.linear_regression(range(5), often).slope < -0.75


def test_mooncakes_gaps_are_ours() -> None:
    """Nothing is published of how they vary."""
    assert cv(asked("mooncake")) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("most_a_day", [500.0, 20_000.0])
def test_as_many_functions_are_called_by_timers_as_published(most_a_day: float) -> None:
    """Huawei, 2025: 42 % by timers alone."""
    loads = traces.many(3000, 1, most_a_day=most_a_day)
    first = [[request[0] for request in load.first(3)] for load in loads]
    timers = sum(after - middle == pytest.approx(middle - before, rel=1e-6) for before, middle, after in first)
    assert timers / len(loads) == pytest.approx(0.42, abs=0.03)


@pytest.mark.parametrize("name", traces.SHAPES)
def test_one_seed_is_one_trace(name: str) -> None:
    assert asked(name, 0.2) == asked.__wrapped__(name, 0.2)
    assert asked(name, 0.2) != asked(name, 0.2, seed=2)


def test_times_ascend() -> None:
    for load in (*traces.services("azure-code", 1, 3), *traces.many(40, 3)):
        times = [request[0] for request in load.until(3 * HOUR)]
        assert times == sorted(times)


def test_most_of_many_functions_are_called_rarely() -> None:
    """Azure Functions 2019: 45 % at most once an hour, 81 % at most once a minute; a few get nearly all calls."""
    counts = sorted(
        len(load.until(6 * HOUR)) / 6 * 24 if load.process else 0 for load in traces.many(400, 1, most_a_day=5000)
    )
    assert sum(count <= 24 for count in counts) / 400 == pytest.approx(0.45, abs=0.07)
    assert sum(count <= 1440 for count in counts) / 400 == pytest.approx(0.81, abs=0.06)
    # There 18.6 % got 99.6 % of all calls; ours are cut off at so many a day, or one function would be the whole load.
    assert sum(counts[-int(0.186 * 400) :]) / sum(counts) > 0.75


def test_many_functions_work_by_day() -> None:
    by_hour = Counter(
        int(request[0] // HOUR) for load in traces.many(120, 2, most_a_day=2000) for request in load.until(24 * HOUR)
    )
    assert sum(by_hour[hour] for hour in range(11, 18)) > 1.8 * sum(by_hour[hour] for hour in range(7))
