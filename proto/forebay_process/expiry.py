"""Until when the certificates are good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import REGISTRY, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from forebay_channel import Identity, InvalidIdentity, expiry


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
    """Show it, if there are any certificates."""
    if identity is None:
        yield
        return
    collector = Expiry(identity)
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)
