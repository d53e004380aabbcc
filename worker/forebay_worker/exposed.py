"""The /metrics endpoint of a worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, start_http_server

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
