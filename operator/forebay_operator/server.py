"""The operator's composition: its parts, put together, served on one address and run by one loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import prometheus_client
import structlog
from grpc_health.v1 import health, health_pb2_grpc

from forebay_api import local
from forebay_api.function import FunctionKey
from forebay_operator.act import Actor
from forebay_operator.config import OperatorConfig
from forebay_operator.control import Alarm, Control
from forebay_operator.demand import Demand
from forebay_operator.fleet import Fleet
from forebay_operator.functions import Functions, Known, LoadedFunctions
from forebay_operator.inspections import Inspections, Subject
from forebay_operator.listen import OPTIONS, CannotListen, listen, unix_path
from forebay_operator.routes import Routes
from forebay_operator.sent import Sent
from forebay_operator.settling import Settling
from forebay_operator.snapshot import Observer
from forebay_operator.status import Statuses
from forebay_operator.term import Term
from forebay_operator.timeline import Timeline
from forebay_operator.view import Json, Scene, View, draw
from forebay_wire.v1 import demand_pb2_grpc, fleet_pb2_grpc, view_pb2_grpc

log = structlog.get_logger(__name__)

TERM_FILE = "term"

GRACE = 0.2
"""Seconds for open calls when the operator stops: workers and gateways look for the next one at once."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; tests shorten them. ``silence``: without a report, a worker or a gateway is gone. ``grow`` and
    ``shrink``: see ``Settling``."""

    silence: float = 3.0
    grow: float = 1.5
    shrink: float = 3.0


async def serve(
    config: OperatorConfig,
    source: AsyncIterator[LoadedFunctions],
    *,
    ready: Callable[[], None],
    timing: Timing = Timing(),
) -> None:
    """Run until cancelled, which is the clean stop. ``ready`` is called once others can connect.

    Raises CannotListen when the address or the metrics port is taken, OSError when the state folder cannot be written,
    and what ``source`` raises.
    """
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _metrics(config.metrics_port):
        server = grpc.aio.server(options=OPTIONS)
        address = listen(server, config.address)
        try:
            parts = _assemble(config, timing)
            async with _started(server, parts):
                with _announced(config.state, address):
                    log.info("operator serves", address=address, term=parts.control.term.number)
                    ready()
                    await _run(parts.functions.follow(source), parts.control.run())
        finally:
            await server.stop(GRACE)
            if (path := unix_path(config.address)) is not None:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Parts:
    functions: Functions
    fleet: Fleet
    demand: Demand
    routes: Routes
    view: View
    control: Control


@contextlib.asynccontextmanager
async def _started(server: grpc.aio.Server, parts: _Parts) -> AsyncIterator[None]:
    fleet_pb2_grpc.add_FleetServicer_to_server(parts.fleet, server)
    demand_pb2_grpc.add_DemandServicer_to_server(parts.demand, server)
    demand_pb2_grpc.add_RoutesServicer_to_server(parts.routes, server)
    view_pb2_grpc.add_ViewServicer_to_server(parts.view, server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await server.start()
    try:
        yield
    finally:
        await healthy.enter_graceful_shutdown()


def _assemble(config: OperatorConfig, timing: Timing) -> _Parts:
    term = Term(config.state / TERM_FILE)
    began = time.time()
    alarm = Alarm()
    inspections = Inspections()
    timeline = Timeline()
    fleet = Fleet(term, wake=alarm.within, inspected=inspections.hear, silence=timing.silence)
    demand = Demand(wake=alarm.within, first_token=timeline.first_token, silence=timing.silence)

    functions = Functions(changed=_on_change(inspections, demand, timeline, alarm))
    observer = Observer(functions, fleet, demand, inspections)
    routes = Routes()

    def present() -> Json:
        outcome = control.outcome
        operator: Json = {"term": term.number, "startedAt": began, "url": config.gateway_url}
        return draw(
            Scene(outcome.seen, outcome.statuses, outcome.progress, fleet.workers, timeline.newest_first(), operator)
        )

    view = View(present)
    control = Control(
        term=term,
        alarm=alarm,
        observer=observer,
        actor=Actor(fleet, inspections, Sent(), observer.epochs),
        timeline=timeline,
        statuses=Statuses(config.gateway_url),
        routes=routes,
        settling=Settling(began, timing.grow, timing.shrink),
        shown=view.changed,
    )
    return _Parts(functions, fleet, demand, routes, view, control)


def _on_change(
    inspections: Inspections, demand: Demand, timeline: Timeline, alarm: Alarm
) -> Callable[[Mapping[FunctionKey, Known], Mapping[FunctionKey, Known]], None]:
    """What to do when functions came, went or changed: forget what concerns others, look anew, decide anew."""

    def changed(before: Mapping[FunctionKey, Known], after: Mapping[FunctionKey, Known]) -> None:
        for key, known in after.items():
            if key in before and before[key].function.generation != known.function.generation:
                inspections.forget_failure(Subject.of(known.function))
        inspections.keep({Subject.of(known.function) for known in after.values()})
        demand.keep(after.keys())
        timeline.keep(after.keys())
        alarm.within(0.0)

    return changed


async def _run(source: Coroutine[None, None, None], loop: Coroutine[None, None, None]) -> None:
    """Both until cancelled. A source that ends has said all that it will ever say; one that raises ends us."""
    following, running = asyncio.ensure_future(source), asyncio.ensure_future(loop)
    tasks = {following, running}
    try:
        while running in tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in (following, running):
            task.cancel()
        await asyncio.gather(following, running, return_exceptions=True)


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


@contextlib.contextmanager
def _metrics(port: int | None) -> Iterator[None]:
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
