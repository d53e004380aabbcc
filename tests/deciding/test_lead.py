"""More replicas before they are needed: the trend of the load over the seconds that a replica takes to load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deciding.loads import NOW, asked, load
from deciding.values import function, snapshot, worker
from forebay_operator.decide import lead
from forebay_operator.decide.load import Measured
from forebay_operator.decide.scale import Why, desired
from forebay_operator.decide.seen import DemandSeen

TROUBLE = ("PrometheusTimeout", "Prometheus did not answer within 2 s")


class TestTrend:
    RISING = asked(18, load(10.0, 18.0))

    def test_who_loads_longer_is_told_earlier(self) -> None:
        assert [desired(self.RISING, NOW, 2, seconds).desired for seconds in (0.0, 2.0, 40.0)] == [2, 2, 3]
        scale = desired(self.RISING, NOW, 2, 40.0)
        assert scale.reason is Why.TREND
        assert scale.message == "rising: 23.6 requests expected in 40 s (gateways), 10 per replica: 3 replicas"

    @pytest.mark.parametrize(
        ("lead", "when"), [(0.004, "within a second"), (0.99, "within a second"), (1.0, "in 1 s"), (1.6, "in 2 s")]
    )
    def test_who_loads_in_no_time_is_told_so_in_words(self, lead: float, when: str) -> None:
        message = desired(asked(18, load(8.0, 19.9)), NOW, 2, lead).message
        assert message == f"rising: {message[8:12]} requests expected {when} (gateways), 10 per replica: 2 replicas"

    def test_at_most_twice_the_short_mean(self) -> None:
        assert desired(asked(18, load(1.0, 18.0)), NOW, 2, 10_000.0).desired == 4

    def test_no_further_than_a_window(self) -> None:
        assert desired(self.RISING, NOW, 2, 60.0).message[:22] == "rising: 27.7 requests "
        assert desired(self.RISING, NOW, 2, 600.0).message[:22] == "rising: 27.7 requests "

    def test_where_it_begins_it_changes_nothing(self) -> None:
        assert desired(asked(18, load(15.0, 18.8)), NOW, 2, 60.0).desired == 2

    def test_a_quarter_more_is_noise(self) -> None:
        assert desired(asked(18, load(14.5, 18.0)), NOW, 2, 40.0).reason is Why.MEAN

    def test_what_falls_leads_nowhere(self) -> None:
        assert desired(asked(18, load(18.0, 10.0)), NOW, 2, 40.0).desired == 2

    def test_too_short_a_past_has_none(self) -> None:
        assert desired(asked(18, load(10.0, 18.0, known=6.0)), NOW, 2, 40.0).reason is Why.MEAN

    def test_each_source_by_itself(self) -> None:
        """The lag between the two is no trend."""
        flat = asked(18, load(18.0), measured=Measured(load(10.0)))
        assert desired(flat, NOW, 2, 40.0).reason is Why.MEAN
        assert desired(replace(self.RISING, measured=Measured(load(10.0))), NOW, 2, 40.0).reason is Why.TREND


class TestLead:
    def test_is_what_the_fastest_fresh_worker_takes(self) -> None:
        workers = [worker("w0", rate=46.0), worker("w1", rate=92.0), worker("w2", rate=920.0, ready=False)]
        seen = snapshot([function(demand=DemandSeen(waiting=1)), function("idle")], workers)
        assert lead.of(seen.functions[0], lead.leads(seen, seen.functions)) == 5.0

    def test_is_less_where_a_part_is_held(self) -> None:
        workers = [
            worker("w0", rate=100.0),
            worker("w1", rate=50.0, resident=range(5)),
            worker("w2", resident=range(6)),
        ]
        seen = snapshot([function(demand=DemandSeen(in_flight=1))], workers)
        assert lead.of(seen.functions[0], lead.leads(seen, seen.functions)) == 1.0

    def test_a_bucket_may_be_the_slower_one(self) -> None:
        seen = snapshot([function(demand=DemandSeen(waiting=1))], [worker("w0", bucket="b", bucket_rate=46.0)])
        assert lead.of(seen.functions[0], lead.leads(seen, seen.functions)) == 10.0

    def test_a_bucket_is_shared_with_those_that_load_through_it(self) -> None:
        busy = worker("w1", bucket="b", bucket_rate=92.0, backbone="other", resident=(0,), order=(0, 1))
        done = worker("w2", bucket="b", bucket_rate=92.0, backbone="other", resident=(0, 1), order=(0, 1))
        fresh = worker("w0", bucket="b", bucket_rate=92.0)
        known = [function(demand=DemandSeen(waiting=1))]
        assert lead.of(known[0], lead.leads(snapshot(known, [fresh, done]), known)) == 5.0
        assert lead.of(known[0], lead.leads(snapshot(known, [fresh, done, busy]), known)) == 10.0

    def test_who_loads_already_counts_once_in_its_bucket(self) -> None:
        begun = worker("w0", bucket="b", bucket_rate=92.0, order=range(6))
        known = [function(demand=DemandSeen(waiting=1))]
        assert lead.of(known[0], lead.leads(snapshot(known, [begun]), known)) == 5.0

    @pytest.mark.parametrize("rate", [0.0, 100.0])
    def test_is_nothing_where_nothing_is_known(self, rate: float) -> None:
        elsewhere = replace(worker("w0", rate=rate), pool="other" if rate else "")
        unknown = function("g", backbone="", demand=DemandSeen(waiting=1))
        seen = snapshot([function(demand=DemandSeen(waiting=1)), unknown], [elsewhere])
        assert [lead.of(one, lead.leads(seen, seen.functions)) for one in seen.functions] == [0.0, 0.0]
