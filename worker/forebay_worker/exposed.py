"""The /metrics endpoint of a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from forebay_channel import Identity, InvalidIdentity, expiry

if TYPE_CHECKING:  # there is nothing of it to import
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def expose(port: int, address: str) -> int:
    """Serve the registry from a thread until the process ends; the port, which is a free one for 0. Raises OSError."""
    server, _ = start_http_server(port, addr=address, registry=REGISTRY)
    if app := server.get_app():
        server.set_app(plain(app))
    return int(server.server_port)


def plain(app: WSGIApplication) -> WSGIApplication:
    """``app`` in the text format, whatever a scraper would rather have. Prometheus asks for OpenMetrics, in which the
    client library writes an underscore for the colon of vLLM's names, and nobody looks for them under that."""

    def text(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        return app({key: value for key, value in environ.items() if key != "HTTP_ACCEPT"}, start)

    return text


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
                "When the certificate that it shows to others, or the last authority it trusts, ends",
                value=expiry(self._identity.read()),
            )
