"""What /metrics shows: what the process counts, each series with the release it is of."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from forebay_channel import Identity, InvalidIdentity, expiry

RELEASE = "forebay_release"
"""The label by which the operator asks Prometheus for its own gateways only."""


class Labelled(Collector):
    """What ``registry`` shows. A Prometheus that scrapes several releases could not tell them apart: functions are
    called alike in all of them."""

    def __init__(self, registry: CollectorRegistry, release: str) -> None:
        self._registry = registry
        self._label = {RELEASE: release}

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not read what is not there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            shown = copy.copy(metric)
            shown.samples = [sample._replace(labels={**sample.labels, **self._label}) for sample in metric.samples]
            yield shown


def shown(release: str) -> CollectorRegistry:
    """To be exposed; ``release`` empty: everything as it is."""
    if not release:
        return REGISTRY
    found = CollectorRegistry()
    found.register(Labelled(REGISTRY, release))
    return found


class Expiry(Collector):
    """Read at each scrape: certificates are renewed. None while they cannot be read, which is logged elsewhere."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def describe(self) -> Iterator[Metric]:
        """Nothing: there may be no files yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with contextlib.suppress(InvalidIdentity):
            yield GaugeMetricFamily(
                "forebay_certificate_expiry_timestamp_seconds",
                "When the certificate that it shows to others, or the last authority it trusts, ends.",
                value=expiry(self._identity.read()),
            )


@contextlib.contextmanager
def watched(identity: Identity | None) -> Iterator[None]:
    """Show until when the certificates are good, if there are any."""
    if identity is None:
        yield
        return
    collector = Expiry(identity)
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)
