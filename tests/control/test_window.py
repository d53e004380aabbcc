"""Means that are right, whatever the window, and take bounded memory."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_api.function import Scaling
from forebay_operator.window import PIECES, Window

changes = st.lists(st.tuples(st.floats(0, 40), st.floats(0, 100)), max_size=30)
windows = st.builds(
    lambda seconds, percent: Scaling(window_seconds=seconds, panic_window_percent=percent),
    st.sampled_from([6, 60, 3600]),
    st.sampled_from([1, 10, 100]),
)


def test_the_means_of_both_windows() -> None:
    window = Window(0.0)
    window.record(0.0, 4.0)
    window.record(50.0, 0.0)
    window.record(57.0, 12.0)
    load = window.load(60.0)
    assert (load.stable, load.panic) == (pytest.approx((4 * 50 + 12 * 3) / 60), pytest.approx(12 * 3 / 6))
    assert (load.known, load.sampled_at) == (60.0, 60.0)
    later = window.load(90.0)
    assert (later.stable, later.panic) == (pytest.approx((4 * 20 + 12 * 33) / 60), pytest.approx(12.0))


def test_what_was_before_it_began_is_not_known() -> None:
    window = Window(100.0)
    window.record(100.0, 9.0)
    assert window.load(100.0).known == 0.0
    assert window.load(100.0).stable == 9.0
    window.record(104.0, 1.0)
    load = window.load(108.0)
    assert (load.stable, load.panic, load.known) == (pytest.approx(5.0), pytest.approx(22 / 6), 8.0)
    window.begin(110.0)
    again = window.load(112.0)
    assert (again.stable, again.known) == (pytest.approx(1.0), 2.0)


def test_amounts_are_rates() -> None:
    window = Window(0.0)
    for second in range(1, 121):
        window.add(float(second), 30.0)
    load = window.load(120.0)
    assert (load.stable, load.panic) == (pytest.approx(30.0), pytest.approx(30.0))
    window.add(500.0, 60.0)  # did not come during all the silence
    assert window.load(500.0).panic == pytest.approx(10.0)
    assert window.load(500.0).stable == pytest.approx(1.0)
    window.add(500.4, 60.0)
    assert window.load(500.4).panic == pytest.approx(20.0)
    assert window.load(600.0).stable == 0.0


def test_a_clock_that_was_set_back_does_no_harm() -> None:
    window = Window(1000.0)
    window.record(1000.0, 5.0)
    window.record(1060.0, 5.0)
    window.record(900.0, 7.0)
    load = window.load(900.0)
    assert (load.stable, load.known) == (7.0, 0.0)
    assert window.load(1066.0).panic == pytest.approx(7.0)


@given(changes, windows)
def test_a_mean_is_that_of_what_was_recorded(told: list[tuple[float, float]], scaling: Scaling) -> None:
    now, window, course = 50.0, Window(50.0, scaling), [(50.0, 0.0)]
    for pause, level in told:
        now += pause
        window.record(now, level)
        course.append((now, level))
    now += 0.5
    load = window.load(now)
    for found, span in ((load.stable, float(scaling.window_seconds)), (load.panic, scaling.window_seconds / 100)):
        if found is load.panic:
            span *= scaling.panic_window_percent
        begin = max(now - span, 50.0)
        ends = [*(at for at, _ in course[1:]), now]
        area = sum(
            level * max(min(end, now) - max(at, begin), 0.0) for (at, level), end in zip(course, ends, strict=True)
        )
        exact, highest = area / (now - begin), max(level for _, level in course)
        # what lies within one piece of the window's edge is taken as evenly spread there
        assert found == pytest.approx(exact, abs=highest * span / PIECES / (now - begin) + 1e-6)
        assert -1e-9 <= found <= highest + 1e-6


@given(windows, st.integers(0, 10**6), st.sampled_from([0.001, 0.1, 10.0, 1000.0]))
@settings(max_examples=30)  # each is hundreds of changes
def test_memory_is_bounded(scaling: Scaling, seed: int, pause: float) -> None:
    now, window, random = 0.0, Window(0.0, scaling), Random(seed)
    for _ in range(500):
        now += random.uniform(0, pause)
        (window.add if random.random() < 0.5 else window.record)(now, 1.0)
    for mean in (window._stable, window._panic):
        assert len(mean._points) <= 2 * PIECES + 2
