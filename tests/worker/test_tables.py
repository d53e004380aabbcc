"""Tables and rules that are plain functions: the worker's states, and when a dead worker is forked again."""

from __future__ import annotations

import pytest

from forebay_worker.states import WORKER, NoSuchTransition, WorkerEvent, WorkerState
from forebay_worker.zygote import CRASHES_AT_ONCE, LONGEST_DELAY, refork_delay


def test_an_event_without_a_place_names_both() -> None:
    with pytest.raises(NoSuchTransition, match="worker: event done has no place in state Ready"):
        WORKER.next(WorkerState.READY, WorkerEvent.DONE)


def test_every_state_of_a_worker_can_end() -> None:
    for state in WorkerState:
        reached = {state}
        while (
            more := {WORKER.next(at, event) for at in reached for event in WorkerEvent if WORKER.allows(at, event)}
            - reached
        ):
            reached |= more
        assert WorkerState.STOPPED in reached


def test_single_deaths_are_answered_at_once() -> None:
    assert refork_delay([], 100.0) == 0
    assert refork_delay([100.0 + second for second in range(CRASHES_AT_ONCE)], 104.0) == 0


def test_a_crash_loop_slows_down_to_a_bound() -> None:
    delays = [refork_delay([100.0] * count, 100.0) for count in range(40)]
    assert delays == sorted(delays)
    assert delays[CRASHES_AT_ONCE + 1] > 0
    assert max(delays) == LONGEST_DELAY


def test_old_deaths_are_forgotten() -> None:
    assert refork_delay([0.0] * 30, 100.0) == 0
