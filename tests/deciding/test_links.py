"""What links give that were not measured, or are shared."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from deciding.values import worker
from forebay_operator.decide import links
from forebay_operator.decide.seen import Link


def rates(*workers: tuple[str, float]) -> list[float]:
    """As known of workers of these pools and measured rates."""
    seen = [replace(worker(f"w{number}", rate=rate), pool=pool) for number, (pool, rate) in enumerate(workers)]
    return [each.link.rate for each in links.known(seen, otherwise=1e9)]


def test_one_that_loaded_nothing_yet_is_like_the_others_of_its_pool() -> None:
    assert rates(("a", 100.0), ("a", 0.0), ("a", 300.0), ("b", 7.0), ("a", 120.0)) == [100.0, 120.0, 300.0, 7.0, 120.0]


def test_where_none_of_its_pool_loaded_anything_the_rate_is_assumed() -> None:
    assert rates(("a", 0.0), ("b", 7.0), ("a", 0.0)) == [1e9, 7.0, 1e9]


def test_nothing_else_about_a_worker_changes() -> None:
    one = worker("w0", rate=0.0, bucket="switch", bucket_rate=50.0, resident=range(3))
    assert links.known([one], otherwise=70.0) == (replace(one, link=Link(70.0, "switch", 50.0)),)
    assert links.known([], otherwise=70.0) == ()


def test_a_bucket_is_shared_and_a_link_is_not() -> None:
    assert [links.share(Link(100.0, "switch", 300.0), sharing) for sharing in (1, 3, 6)] == [100.0, 100.0, 50.0]
    assert links.share(Link(100.0), 6) == 100.0
    assert links.share(Link(0.0)) == inf
