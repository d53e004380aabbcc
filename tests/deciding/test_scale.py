"""How many replicas, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from deciding.loads import NOW, OWN, TEN, asked, load
from deciding.values import function
from forebay_api.function import OwnQuery, Scaling, ScalingMetric, ScalingMode
from forebay_operator.decide.load import Load, Measured, Memory, Source
from forebay_operator.decide.scale import Limit, Why, desired
from forebay_operator.decide.seen import DemandSeen, FunctionSeen

TROUBLE = ("PrometheusTimeout", "Prometheus did not answer within 2 s")


@pytest.mark.parametrize(
    ("seen", "current", "replicas", "reason"),
    [
        (function(), 0, 0, "no request yet"),
        (function(demand=DemandSeen(waiting=1)), 0, 1, "1 request waits or runs: 1 replica"),
        (function(demand=DemandSeen(waiting=1, in_flight=2)), 0, 1, "3 requests wait or run: 1 replica"),
        (
            function(demand=DemandSeen(in_flight=33, load=load(33.0))),
            2,
            3,
            "33.0 requests (mean of 60 s, gateways), 11.2 per replica: 3 replicas",
        ),
        (
            asked(25),
            4,
            4,
            "25.0 requests (mean of 60 s, gateways), 10 per replica: "
            "4 replicas, since 3 would have too little to spare",
        ),
        (
            asked(99, scaling=replace(TEN, max_replicas=8)),
            9,
            8,
            "99.0 requests (mean of 60 s, gateways), 10 per replica: 10 replicas; maxReplicas is 8",
        ),
        (
            asked(0, load(3.0, 50.0), ended=NOW - 1),
            2,
            5,
            "panic: 50.0 requests (mean of 6 s, gateways), 10 per replica: 5 replicas",
        ),
        (
            asked(30, load(0.1, 0.5)),
            0,
            3,
            "panic: 30 requests held while nothing serves, 10 per replica: 3 replicas",
        ),
        (function(scaling=Scaling(min_replicas=2)), 0, 2, "no request yet; minReplicas is 2"),
        (function(replicas=7, demand=DemandSeen(waiting=1)), 0, 7, "pinned to 7 replicas"),
        (function(replicas=0, demand=DemandSeen(waiting=1)), 1, 0, "pinned to 0 replicas"),
        (function(suspend=True, demand=DemandSeen(waiting=1)), 1, 0, "suspended"),
        (function(failure=("ArtifactNotFound", "no such folder")), 1, 0, "failed: ArtifactNotFound"),
        (function(demand=DemandSeen(last_ended=NOW - 30)), 1, 0, "idle for 30 s"),
        (
            function(demand=DemandSeen(last_ended=NOW - 29)),
            1,
            1,
            "idle, kept for 30 s after the last request: 1 replica",
        ),
        (
            function(demand=DemandSeen(last_ended=NOW - 90, blind=True)),
            2,
            2,
            "idle for 30 s; maxScaleDownRate 2 keeps 1 for now; 2 replicas stay, since a gateway is missing",
        ),
        (
            function(demand=DemandSeen(waiting=20, blind=True, load=load(20.0))),
            1,
            2,
            "20.0 requests (mean of 60 s, gateways), 11.2 per replica: 2 replicas",
        ),
        (
            asked(20, measured=Measured(load(70.0))),
            4,
            7,
            "70.0 requests (mean of 60 s, Prometheus), 10 per replica: 7 replicas",
        ),
        (
            asked(20, measured=Measured(load(35.0)), scaling=OWN),
            4,
            7,
            "35.0 by its own query (mean of 60 s, Prometheus), 5 per replica: 7 replicas",
        ),
        (
            asked(20, measured=Measured(load(35.0), ageless=True), scaling=OWN),
            4,
            7,
            "35.0 by its own query, whose age nothing tells (mean of 60 s, Prometheus), 5 per replica: 7 replicas",
        ),
        (
            asked(3, load(25.0), scaling=replace(TEN, metric=ScalingMetric.TOKENS_PER_SECOND)),
            2,
            3,
            "25.0 tokens/s (mean of 60 s, gateways), 10 per replica: 3 replicas",
        ),
    ],
)
def test_replicas_and_their_reason(seen: FunctionSeen, current: int, replicas: int, reason: str) -> None:
    scale = desired(seen, NOW, current)
    assert (scale.desired, scale.message) == (replicas, reason)


def test_time_alone_takes_an_idle_function_to_zero() -> None:
    seen = function(demand=DemandSeen(last_ended=NOW))
    scale = desired(seen, NOW + 1, 1)
    assert (scale.desired, scale.reason) == (1, Why.KEPT)
    assert scale.wake_at == NOW + 30
    assert desired(seen, NOW + 30, 1).desired == 0


def test_what_an_earlier_operator_left_running_gets_the_grace_period_too() -> None:
    seen = function(first_seen=NOW)
    assert desired(seen, NOW + 1, 1).desired == 1
    assert desired(seen, NOW + 1, 0).desired == 0
    assert desired(seen, NOW + 31, 1).desired == 0


def test_a_decision_names_the_numbers_that_it_was_made_from() -> None:
    prometheus = Load(stable=20.0, panic=25.0, known=60.0, sampled_at=NOW - 12)
    scale = desired(asked(30, load(18.0, 31.0), measured=Measured(prometheus)), NOW, 4)
    found = [(given.name, given.value, given.sampled_at, given.source) for given in scale.inputs]
    assert found == [
        ("stable", 20.0, NOW - 12, Source.PROMETHEUS),
        ("panic", 31.0, NOW, Source.GATEWAYS),
        ("waiting", 0.0, NOW, Source.GATEWAYS),
        ("inFlight", 30.0, NOW, Source.GATEWAYS),
    ]


class TestMeans:
    def test_down_only_where_there_is_room_to_spare(self) -> None:
        assert [desired(asked(n), NOW, 4).desired for n in (41, 40, 33, 32, 25, 24, 17, 16)] == [5, 4, 4, 4, 4, 3, 3, 2]

    def test_what_was_decided_last_counts_not_what_serves_yet(self) -> None:
        seen = asked(28, memory=Memory(last=3, tick_began=NOW, tick_base=3))
        assert desired(seen, NOW, 1).desired == 3
        assert desired(replace(seen, memory=Memory()), NOW, 1).reason is Why.PANIC

    def test_the_gateways_may_raise_the_short_mean_and_not_lower_it(self) -> None:
        high, low = load(10.0, 60.0), load(10.0, 1.0)
        assert desired(asked(10, high, measured=Measured(load(10.0))), NOW, 2).desired == 6
        assert desired(asked(10, low, measured=Measured(load(10.0, 60.0))), NOW, 2).desired == 6

    def test_what_gateways_count_says_nothing_about_a_query_of_its_own(self) -> None:
        scale = desired(asked(90, load(90.0), measured=Measured(load(5.0)), scaling=OWN), NOW, 1)
        assert (scale.desired, scale.reason) == (1, Why.MEAN)
        at_zero = desired(asked(90, load(90.0), measured=Measured(load(0.0)), scaling=OWN), NOW, 0)
        assert (at_zero.desired, at_zero.reason) == (1, Why.REQUESTS)

    def test_tokens_say_nothing_about_requests_that_are_held(self) -> None:
        scaling = replace(TEN, metric=ScalingMetric.TOKENS_PER_SECOND)
        assert desired(asked(90, load(0.0), scaling=scaling), NOW, 0).desired == 1


class TestPanic:
    def test_begins_at_the_threshold_of_what_serves(self) -> None:
        assert desired(asked(20, load(11.0, 19.9)), NOW, 1).reason is Why.MEAN
        scale = desired(asked(20, load(11.0, 20.0)), NOW, 1)
        assert (scale.reason, scale.memory.panic_until, scale.memory.panic_peak) == (Why.PANIC, NOW + 60, 2)
        low = replace(TEN, panic_threshold_percent=110)
        assert desired(asked(11, load(5.0, 11.0), scaling=low), NOW, 1).desired == 2

    def test_nothing_goes_until_a_window_after_the_last_crossing(self) -> None:
        peak = desired(asked(50), NOW, 1)
        calm = asked(10, load(10.0), memory=peak.memory)
        later = desired(calm, NOW + 59.9, 5)
        assert (later.desired, later.reason) == (5, Why.PANIC)
        assert later.message.endswith("10 per replica: 1 replica; 5 stay until 60 s after the peak")
        again = desired(asked(100, memory=later.memory), NOW + 59.95, 5)
        assert (again.desired, again.memory.panic_until) == (10, NOW + 119.95)
        over = desired(replace(calm, memory=again.memory), NOW + 119.95, 10)
        assert (over.desired, over.reason, over.memory.panic_until) == (5, Why.MEAN, 0.0)
        assert over.memory.panic_peak == 0

    def test_a_function_that_is_idle_leaves_it(self) -> None:
        peak = desired(asked(20), NOW, 1)
        idle = asked(0, load(5.0, 0.0), ended=NOW + 1, memory=peak.memory)
        assert desired(idle, NOW + 2, 2).reason is Why.PANIC
        assert desired(idle, NOW + 31, 2).memory.panic_until == 0.0

    def test_a_clock_that_was_set_back_prolongs_it_by_a_window_at_most(self) -> None:
        memory = Memory(last=3, panic_until=NOW + 5000, panic_peak=3, tick_began=NOW + 4000, tick_base=9)
        scale = desired(asked(10, memory=memory), NOW, 3)
        assert (scale.memory.panic_until, scale.memory.tick_began, scale.memory.tick_base) == (NOW + 60, NOW, 3)


class TestRates:
    def test_up_and_down_within_a_tick(self) -> None:
        up = replace(TEN, max_scale_up_rate=1.5)
        scale = desired(asked(90, scaling=up), NOW, 4)
        assert (scale.desired, scale.limit, scale.wake_at) == (6, Limit.UP_RATE, NOW + 2)
        assert scale.message.endswith("; maxScaleUpRate 1.5 allows 6 now")
        same_tick = desired(asked(90, scaling=up, memory=scale.memory), NOW + 1.9, 6)
        assert same_tick.desired == 6
        assert desired(asked(90, scaling=up, memory=same_tick.memory), NOW + 2, 6).desired == 9

    def test_down(self) -> None:
        scale = desired(asked(1), NOW, 8)
        assert (scale.desired, scale.limit, scale.reason) == (4, Limit.DOWN_RATE, Why.MEAN)
        assert scale.message.endswith("; maxScaleDownRate 2 keeps 4 for now")
        same_tick = desired(asked(1, memory=scale.memory), NOW + 1, 4)
        assert same_tick.desired == 4
        assert desired(asked(1, memory=same_tick.memory), NOW + 2, 4).desired == 2

    def test_idle_to_zero_too(self) -> None:
        idle = asked(0, load(0.0), ended=NOW - 30)
        counts, memory = [], Memory()
        for second in range(8):
            scale = desired(replace(idle, memory=memory), NOW + second, counts[-1] if counts else 8)
            counts.append(scale.desired)
            memory = scale.memory
        assert counts == [4, 4, 2, 2, 1, 1, 0, 0]

    def test_what_was_granted_and_still_loads_is_not_taken_back(self) -> None:
        slow = replace(TEN, max_scale_up_rate=1.01)
        seen = asked(30, scaling=slow, memory=Memory(last=3))
        assert desired(seen, NOW, 1).desired == 3


class TestDelay:
    DELAY = replace(TEN, scale_down_delay_seconds=30, max_scale_down_rate=1000.0)

    def course(self, requests: dict[float, int]) -> list[tuple[int, Limit]]:
        memory, found, current = Memory(), [], 5
        for at, count in requests.items():
            scale = desired(asked(count, scaling=self.DELAY, memory=memory), NOW + at, current)
            memory, current = scale.memory, scale.desired
            found.append((scale.desired, scale.limit))
        return found

    def test_the_most_that_was_wanted_within_it(self) -> None:
        kept = Limit.DELAY
        assert self.course({0: 50, 10: 30, 20: 9, 35: 9, 39.9: 9, 40: 9, 49.9: 9, 50.1: 9, 60: 9}) == [
            (5, Limit.NONE), (5, kept), (5, kept), (5, kept), (5, kept), (4, kept), (4, kept), (2, Limit.NONE),
            (2, Limit.NONE),
        ]  # fmt: skip

    def test_it_begins_when_fewer_are_enough_also_after_a_long_silence(self) -> None:
        assert self.course({0: 50, 500: 9, 529: 9, 530: 9}) == [
            (5, Limit.NONE), (5, Limit.DELAY), (5, Limit.DELAY), (2, Limit.NONE)
        ]  # fmt: skip

    def test_it_wakes_when_it_is_over(self) -> None:
        first = desired(asked(50, scaling=self.DELAY), NOW, 5)
        scale = desired(asked(8, scaling=self.DELAY, memory=first.memory), NOW + 1, 5)
        assert scale.wake_at == NOW + 31
        assert scale.message.endswith("; scaleDownDelaySeconds 30 keeps 5")


class TestBlind:
    @pytest.mark.parametrize("current", [1, 3, 8])
    @pytest.mark.parametrize(
        "blind",
        [
            asked(0, load(0.0), ended=NOW - 90, blind=True),
            asked(1, load(0.1), blind=True),
            asked(0, load(0.0), ended=NOW - 90, measured=Measured(None, TROUBLE)),
            asked(1, load(0.1), measured=Measured(load(0.0), TROUBLE)),
            asked(0, load(0.0), ended=NOW - 90, measured=Measured(None)),
            asked(1, load(0.1), measured=Measured(load(nan))),
            asked(1, load(0.1), measured=Measured(load(0.1, inf)), scaling=OWN),
            asked(1, load(0.1, known=59.0)),
            asked(1, load(0.1), measured=Measured(load(0.1, known=30.0))),
            asked(0, load(0.0), ended=NOW - 90, measured=Measured(None, TROUBLE), scaling=OWN),
        ],
    )
    def test_nothing_goes(self, blind: FunctionSeen, current: int) -> None:
        scale = desired(blind, NOW, current)
        assert scale.desired == current
        assert current == 1 or scale.limit is Limit.BLIND
        # neither of those that serve nor of those that were decided on
        memory = Memory(last=5, tick_began=NOW, tick_base=5)
        assert desired(replace(blind, memory=memory), NOW, current).desired == max(current, 5)

    def test_less_than_nothing_is_nothing(self) -> None:
        assert desired(asked(1, load(0.0), measured=Measured(load(-5.0)), scaling=OWN), NOW, 1).desired == 1

    def test_it_says_why(self) -> None:
        scale = desired(asked(1, measured=Measured(None, TROUBLE)), NOW, 2)
        assert scale.message.endswith("; 2 replicas stay, since Prometheus did not answer within 2 s")
        young = desired(asked(1, load(1.0, known=12.4)), NOW, 2)
        assert young.message.endswith("; 2 replicas stay, since only 12 s of the last 60 s are known")

    def test_the_gateways_take_over_upwards(self) -> None:
        scale = desired(asked(70, measured=Measured(load(5.0), TROUBLE)), NOW, 4)
        assert (scale.desired, scale.inputs[0].source) == (7, Source.GATEWAYS)
        own = desired(asked(70, measured=Measured(None, TROUBLE), scaling=OWN), NOW, 4)
        assert own.desired == 7

    def test_it_recovers_quietly(self) -> None:
        blind = desired(asked(25, measured=Measured(None, TROUBLE)), NOW, 3)
        seeing = desired(asked(25, measured=Measured(load(25.0)), memory=blind.memory), NOW + 1, 3)
        assert (blind.desired, seeing.desired, seeing.limit) == (3, 3, Limit.NONE)
        fewer = desired(asked(3, measured=Measured(load(3.0)), memory=seeing.memory), NOW + 3, 3)
        assert fewer.desired == 1

    def test_a_young_function_that_is_idle_is_not_kept_for_it(self) -> None:
        assert desired(asked(0, load(0.0, known=5.0), ended=NOW - 30), NOW, 1).desired == 0

    def test_the_bounds_hold(self) -> None:
        assert desired(asked(1, blind=True, scaling=replace(TEN, max_replicas=2)), NOW, 8).desired == 2


class TestExternal:
    @staticmethod
    def external(replicas: int, demand: DemandSeen) -> FunctionSeen:
        return function(replicas=replicas, demand=demand, scaling=Scaling(mode=ScalingMode.EXTERNAL, max_replicas=2))

    @pytest.mark.parametrize(
        ("replicas", "demand", "current", "expected"),
        [
            (3, DemandSeen(in_flight=1), 1, (3, "spec.replicas asks for 3 replicas")),
            (1, DemandSeen(in_flight=99), 1, (1, "spec.replicas asks for 1 replica")),
            (0, DemandSeen(), 1, (0, "spec.replicas asks for 0 replicas")),
            (
                0,
                DemandSeen(waiting=1),
                0,
                (1, "spec.replicas asks for 0 replicas; 1 replica for a request"),
            ),
            (
                0,
                DemandSeen(last_ended=NOW - 29),
                1,
                (1, "spec.replicas asks for 0 replicas; 1 replica for 30 s after the last request"),
            ),
            (0, DemandSeen(last_ended=NOW - 30), 1, (0, "spec.replicas asks for 0 replicas")),
            (
                0,
                DemandSeen(blind=True),
                2,
                (1, "spec.replicas asks for 0 replicas; 1 replica stays, since a gateway is missing"),
            ),
            (0, DemandSeen(blind=True), 0, (0, "spec.replicas asks for 0 replicas")),
        ],
    )
    def test_the_other_one_decides_but_on_the_first_replica(
        self, replicas: int, demand: DemandSeen, current: int, expected: tuple[int, str]
    ) -> None:
        scale = desired(self.external(replicas, demand), NOW, current)
        assert (scale.desired, scale.message) == expected
        assert scale.reason is Why.EXTERNAL
        assert scale.desired <= scale.ceiling

    def test_it_wakes_when_the_grace_period_is_over(self) -> None:
        assert desired(self.external(0, DemandSeen(last_ended=NOW - 10)), NOW, 1).wake_at == NOW + 20


class TestLooking:
    """Time alone changes means and what may be concluded from them."""

    def test_every_two_seconds_while_they_move(self) -> None:
        assert desired(asked(5, load(4.0, 5.0)), NOW + 0.5, 1).wake_at == NOW + 2
        assert desired(asked(5), NOW + 0.5, 1).wake_at is None
        assert desired(asked(5, measured=Measured(load(5.0))), NOW + 2, 1).wake_at == NOW + 4

    def test_tokens_never_stand_still_before_they_are_none(self) -> None:
        scaling = replace(TEN, metric=ScalingMetric.TOKENS_PER_SECOND)
        assert desired(asked(5, load(5.0), scaling=scaling), NOW, 1).wake_at == NOW + 2
        assert desired(asked(5, load(0.0), scaling=scaling), NOW, 1).wake_at is None

    def test_not_for_what_is_at_zero(self) -> None:
        assert desired(asked(0, load(0.0), measured=Measured(load(0.0)), ended=1.0), NOW, 0).wake_at is None


@pytest.mark.parametrize("value", [1e305, 1.7e308])
@pytest.mark.parametrize("panic", [0.0, 1.7e308])
def test_a_query_may_give_any_number(value: float, panic: float) -> None:
    """One that no replica count can say must not end the pass, in which everybody is decided on."""
    scaling = replace(OWN, target_utilization_percent=1, prometheus=OwnQuery("1e308", 0.01))
    for lead in (0.0, 30.0):
        scale = desired(asked(3, load(0.0), measured=Measured(load(value, panic)), scaling=scaling), NOW, 1, lead)
        assert scale.desired == scaling.max_replicas
        rising = desired(asked(3, load(0.0), measured=Measured(load(1.0, value)), scaling=scaling), NOW, 1, lead)
        assert rising.desired == scaling.max_replicas
