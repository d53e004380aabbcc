"""The /metrics endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import start_http_server

from forebay_operator.listen import CannotListen
from forebay_process.release import shown


@contextlib.contextmanager
def exposed(port: int | None, release: str = "", host: str = "0.0.0.0") -> Iterator[None]:
    """Serve /metrics of ``release`` on every interface, or on that of ``host``. Raises CannotListen."""
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, host, registry=shown(release))
    except OSError as error:
        raise CannotListen(f"cannot listen on metrics port {port}: {error.strerror or error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
