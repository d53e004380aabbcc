"""The one word that people read first, and the times of conditions."""

from __future__ import annotations

from itertools import product

import pytest

from forebay_api.conditions import STATES, Condition, ConditionType, Facts, State, Status, state

FACTS = [fact for fact, _ in STATES]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(), State.IDLE),
        (Facts(waiting=True), State.QUEUED),
        (Facts(waiting=True, loading=True), State.LOADING),
        (Facts(waiting=True, draining=True), State.QUEUED),
        (Facts(staged=True, loading=True), State.PIPELINED),
        (Facts(whole=True, staged=True, loading=True, draining=True), State.SERVING),
        (Facts(draining=True), State.DRAINING),
        (Facts(suspended=True, whole=True), State.SUSPENDED),
        (Facts(failed=True, suspended=True, whole=True), State.FAILED),
    ],
)
def test_the_state_of_a_situation(facts: Facts, expected: State) -> None:
    assert state(facts) == expected


def test_every_combination_has_the_state_of_its_first_fact() -> None:
    for values in product([False, True], repeat=len(FACTS)):
        first = next((named for (_, named), value in zip(STATES, values, strict=True) if value), State.IDLE)
        assert state(Facts(**dict(zip(FACTS, values, strict=True)))) == first


def test_the_time_moves_only_with_the_status() -> None:
    then = Condition(ConditionType.READY, Status.TRUE, "Ready", since=10.0)
    same = Condition(ConditionType.READY, Status.TRUE, "NoTraffic", since=20.0)
    other = Condition(ConditionType.READY, Status.FALSE, "Pending", since=20.0)
    assert same.following(then).since == 10.0
    assert same.following(then).reason == "NoTraffic"
    assert other.following(then).since == 20.0
    assert other.following(None) == other
