"""The /metrics endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import prometheus_client

from forebay_operator.listen import CannotListen


@contextlib.contextmanager
def exposed(port: int | None) -> Iterator[None]:
    """Serve /metrics on every interface. Raises CannotListen."""
    if port is None:
        yield
        return
    try:
        server, thread = prometheus_client.start_http_server(port)
    except OSError as error:
        raise CannotListen(f"cannot listen on metrics port {port}: {error.strerror or error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
