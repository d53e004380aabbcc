"""What Prometheus answers is read as it is meant, and what cannot be meant is told apart."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_api.conditions import Reason
from forebay_operator.decide import samples
from forebay_operator.decide.samples import Answer, FleetRound, Inputs, Series, Trouble

NAN = float("nan")
AT = 1000.0


def vector(*found: tuple[dict[str, str], float], at: float = AT) -> Answer:
    return Answer("vector", tuple(Series(labels, ((at, value),)) for labels, value in found))


def fleet(gateways: float = 2, oldest: float = AT - 1, interval: float = 5, **requests: float) -> Answer:
    return vector(
        *(({"is": "requests", "function": f"default/{name}"}, value) for name, value in requests.items()),
        ({"is": "gateways"}, gateways),
        ({"is": "oldest"}, oldest),
        ({"is": "interval"}, interval),
    )


def trouble(answer: Answer, connected: int = 2, bound: float = 15.0) -> Reason | None:
    (said,) = samples.fleet_rounds(answer)
    found = samples.fleet_trouble(said, connected, bound)
    return found and found.reason


def test_one_evaluation_tells_of_all_functions() -> None:
    (said,) = samples.fleet_rounds(fleet(busy=3, idle=0))
    assert said == FleetRound(AT, {"default/busy": 3.0}, {}, 2, AT - 1, 5.0)
    assert samples.fleet_trouble(said, 2, 15.0) is None


def test_the_query_grows_with_what_it_asks_not_with_functions() -> None:
    query = samples.fleet_query(45, "")
    assert 'forebay_inflight{forebay_release=""} + forebay_queue_depth{forebay_release=""}' in query
    assert 'rate(forebay_function_tokens_total{forebay_release=""}[45s])' in query
    assert query.count(" or ") == 4


def test_every_part_of_the_query_is_about_one_release() -> None:
    query = samples.fleet_query(45, "models/forebay")
    named = re.findall(r"(forebay_\w+)(\{.*?\})?", query.replace("forebay_release", "release"))
    assert {selected for _, selected in named} == {'{release="models/forebay"}'}


def test_whose_gateways_are_missing_is_said() -> None:
    nothing = FleetRound(AT)
    said = [samples.fleet_trouble(nothing, 0, 15.0, release) for release in ("", "models/forebay")]
    assert [trouble and trouble.message for trouble in said] == [
        "Prometheus has no samples of any gateway (forebay_gateway_time_seconds)",
        "Prometheus has no samples of any gateway of forebay_release models/forebay (forebay_gateway_time_seconds)",
    ]


def test_a_range_is_many_rounds() -> None:
    """Also where one series begins later."""
    answer = Answer(
        "matrix",
        (
            Series({"is": "tokens", "function": "default/a"}, ((20.0, 7.0),)),
            Series({"is": "gateways"}, ((10.0, 1.0), (20.0, 1.0))),
            Series({"is": "oldest"}, ((10.0, 9.0), (20.0, 19.0))),
        ),
    )
    assert samples.fleet_rounds(answer) == (
        FleetRound(10.0, {}, {}, 1, 9.0),
        FleetRound(20.0, {}, {"default/a": 7.0}, 1, 19.0),
    )


def test_who_was_scraped_once_has_no_interval_yet() -> None:
    assert samples.fleet_rounds(fleet(interval=NAN))[0].interval == 0.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (vector(({"is": "requests", "function": "default/a"}, 1.0)), Reason.NO_SAMPLES),
        (fleet(gateways=NAN), Reason.NO_SAMPLES),
        (fleet(oldest=AT - 16), Reason.STALE_SAMPLES),
        (fleet(oldest=AT + 6), Reason.CLOCK_SKEW),
        (fleet(oldest=AT + 4), None),
        (fleet(gateways=1), Reason.PARTIAL_SAMPLES),
        (fleet(gateways=3), None),
        (fleet(a=NAN), Reason.NOT_A_NUMBER),
        (fleet(a=math.inf), Reason.NOT_A_NUMBER),
        (fleet(a=-1), Reason.NOT_A_NUMBER),
        (vector(*((s.labels, s.points[0][1]) for s in fleet().series), ({"is": "tokens"}, NAN)), Reason.NOT_A_NUMBER),
    ],
)
def test_why_a_round_cannot_be_used(answer: Answer, reason: Reason | None) -> None:
    assert trouble(answer) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("matrix", ()), Reason.QUERY_INVALID),
        (Answer("string", ()), Reason.QUERY_INVALID),
        (vector(), Reason.NO_SAMPLES),
        (vector(({"a": "1"}, 1.0), ({"a": "2"}, 1.0)), Reason.SEVERAL_SERIES),
        (vector(({}, NAN)), Reason.NOT_A_NUMBER),
        (vector(({}, -math.inf)), Reason.NOT_A_NUMBER),
        (vector(({}, -0.5)), Reason.NOT_A_NUMBER),
    ],
)
def test_why_an_own_query_gives_nothing(answer: Answer, reason: Reason) -> None:
    found = samples.own_value(answer)
    assert isinstance(found, Trouble)
    assert found.reason is reason


def test_an_own_query_is_one_number() -> None:
    assert samples.own_value(vector(({"any": "label"}, 2.5))) == (AT, 2.5)
    assert samples.own_value(Answer("scalar", (Series({}, ((AT, 0.0),)),))) == (AT, 0.0)


def stamped(*found: tuple[str, float, float]) -> Answer:
    """Of (place of the input, time, when it was scraped)."""
    return Answer("matrix", tuple(Series({"input": place}, ((at, value),)) for place, at, value in found))


class TestInputs:
    QUERY = 'sum(rate(x{a="b"}[1m])) / on() y'

    def test_are_asked_for_at_once(self) -> None:
        assert Inputs.of(self.QUERY).query == (
            'label_replace(max(timestamp(x{a="b"})), "input", "0", "", "") or '
            'label_replace(max(timestamp(y)), "input", "1", "", "")'
        )

    def test_the_oldest_is_as_old_as_all(self) -> None:
        inputs = Inputs.of(self.QUERY)
        assert inputs.stamps(stamped(("0", 10.0, 9.0), ("1", 10.0, 4.0), ("0", 20.0, 19.0))) == {10.0: 4.0}

    def test_which_one_is_gone_is_said(self) -> None:
        trouble = Inputs.of(self.QUERY).missing(stamped(("0", 10.0, 9.0)))
        assert trouble == Trouble(Reason.NO_SAMPLES, "the query is computed from y, of which there is no sample now")
        long = Inputs.of(f'sum(x{{a="{"b" * 999}"}})').missing(Answer("vector", ()))
        assert f"{'b' * 100}…, of which" in long.message
        assert len(long.message) < 300

    def test_one_is_enough_where_it_chooses(self) -> None:
        inputs = Inputs.of("x or y")
        assert inputs.stamps(stamped(("1", 10.0, 4.0))) == {10.0: 4.0}
        assert inputs.stamps(Answer("vector", ())) == {}

    def test_are_so_many_at_most(self) -> None:
        assert len(Inputs.of(" + ".join(f"x{n}" for n in range(1000))).selectors) == samples.MOST_INPUTS


def test_of_a_stored_range_what_can_be_used() -> None:
    values = Answer("matrix", (Series({}, ((10.0, 1.0), (20.0, NAN), (30.0, 3.0), (40.0, 4.0))),))
    stamps = {10.0: 9.0, 20.0: 19.0, 30.0: 9.0}
    assert samples.own_points(values, None, 15.0) == ((10.0, 1.0), (30.0, 3.0), (40.0, 4.0))
    assert samples.own_points(values, stamps, 15.0) == ((10.0, 1.0),)
    assert samples.own_points(Answer("matrix", ()), None, 15.0) == ()


def load(found: list[tuple[float, float]], stable: float = 60.0, panic: float = 6.0, gap: float = 15.0):
    return samples.mean_load(found, stable, panic, gap, 123.0)


def test_one_sample_is_a_mean_of_which_nothing_is_known() -> None:
    found = load([(100.0, 4.0)])
    assert (found.stable, found.panic, found.known, found.sampled_at) == (4.0, 4.0, 0.0, 123.0)


def test_a_full_window_is_known_to_its_edge_and_no_further() -> None:
    found = load([(float(at), 0.0 if at <= 40 else 6.0) for at in range(0, 101, 5)])
    assert (found.stable, found.panic, found.known) == (6.0, 6.0, 60.0)


def test_means_are_weighed_by_time() -> None:
    """Of the ten seconds, eight with 1 and two with 6; of the last four, two each."""
    found = load([(0.0, 9.0), (8.0, 1.0), (10.0, 6.0)], stable=10.0, panic=4.0)
    assert (found.stable, found.panic, found.known) == (2.0, 3.5, 10.0)


def test_what_is_older_than_a_gap_is_not_known() -> None:
    found = load([(0.0, 100.0), (5.0, 100.0), (30.0, 1.0), (35.0, 2.0), (40.0, 4.0)])
    assert (found.stable, found.known) == (3.0, 10.0)


@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 1e6)), min_size=1, max_size=40))
def test_a_mean_lies_between_what_was_measured(steps: list[tuple[float, float]]) -> None:
    at, found = 0.0, []
    for width, value in steps:
        at += width
        found.append((at, value))
    told = load(found)
    values = [value for _, value in found]
    for mean in (told.stable, told.panic):
        assert min(values) * (1 - 1e-9) <= mean <= max(values) * (1 + 1e-9)
    assert 0 <= told.known <= 60.0
