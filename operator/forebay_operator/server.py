"""Local mode's operator: its parts, served on one address, their functions from files, their term from a file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc

from forebay_api import local
from forebay_operator.config import OperatorConfig
from forebay_operator.doors import Doors
from forebay_operator.exposed import exposed
from forebay_operator.functions import LoadedFunctions
from forebay_operator.listen import OPTIONS, listen, unix_path
from forebay_operator.measurements import measurements
from forebay_operator.parts import TIMING, Timing, assemble
from forebay_operator.status import Urls
from forebay_operator.term import Term
from forebay_operator.together import together

log = structlog.get_logger(__name__)

TERM_FILE = "term"

GRACE = 0.2
"""Seconds for open calls when the operator stops: workers and gateways look for the next one at once."""


async def serve(
    config: OperatorConfig,
    source: AsyncIterator[LoadedFunctions],
    *,
    ready: Callable[[], None],
    timing: Timing = TIMING,
) -> None:
    """Run until cancelled, which is the clean stop. ``ready`` is called once others can connect.

    Raises CannotListen when the address or the metrics port is taken, OSError when the state folder cannot be written,
    and what ``source`` raises.
    """
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exposed(config.metrics_port, config.metrics_release):
        server = grpc.aio.server(options=OPTIONS)
        address = listen(server, config.address)
        try:
            prometheus = config.prometheus
            if prometheus is not None:  # asked for what is shown here, whatever release its own settings name
                prometheus = replace(prometheus, release=config.metrics_release)
            measured = measurements(prometheus, lambda: parts)
            term = Term(config.state / TERM_FILE)
            parts = assemble(term, Urls(config.gateway_url), timing, measurements=measured)
            doors = Doors()
            parts.attend(doors)
            async with started(server, doors):
                with _announced(config.state, address):
                    log.info("operator serves", address=address, term=term.number)
                    ready()
                    await together(parts.run(source), *([measured.run()] if measured else []))
        finally:
            await server.stop(GRACE)
            if (path := unix_path(config.address)) is not None:
                path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def started(server: grpc.aio.Server, doors: Doors) -> AsyncIterator[None]:
    """Listening inside the block, and healthy to those who ask; whoever made the server stops it."""
    server.add_generic_rpc_handlers((doors,))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await server.start()
    try:
        yield
    finally:
        await healthy.enter_graceful_shutdown()


@contextlib.contextmanager
def _announced(state: Path, address: str) -> Iterator[None]:
    """Leave a file by which others find us, for as long as we run."""
    path = state / local.OPERATOR_FILE
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"pid": os.getpid(), "address": address}))
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
