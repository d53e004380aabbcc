"""How many workers each pool has, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Gauge

from forebay_operator.decide.pools import PoolCount

DESIRED = Gauge("forebay_pool_desired_workers", "Workers that there should be.", ["pool"])
READY = Gauge("forebay_pool_ready_workers", "Workers whose pods are ready, up to those desired.", ["pool"])
UPDATED = Gauge("forebay_pool_updated_workers", "Workers whose pods follow the pool as it is now.", ["pool"])


def show(counts: Mapping[str, PoolCount]) -> None:
    """Those of all pools that there are; what was shown of others is gone, whichever term showed it."""
    for name, count in counts.items():
        DESIRED.labels(name).set(count.desired)
        READY.labels(name).set(count.ready)
        UPDATED.labels(name).set(count.updated)
    for gauge in (DESIRED, READY, UPDATED):
        shown = {sample.labels["pool"] for family in gauge.collect() for sample in family.samples}
        for name in shown - counts.keys():
            gauge.remove(name)
