"""The operator's parts and how they are put together: the same for local mode and for a cluster's leader."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from forebay_api.function import FunctionKey
from forebay_operator.act import Actor
from forebay_operator.control import Alarm, Control, Outcome
from forebay_operator.credentials import Credentials, FromEnvironment
from forebay_operator.decisions import Decisions
from forebay_operator.demand import Demand
from forebay_operator.doors import Doors
from forebay_operator.estate import Estate
from forebay_operator.fleet import Fleet
from forebay_operator.functions import Functions, Known, LoadedFunctions
from forebay_operator.inspections import Inspections
from forebay_operator.previews import Previews
from forebay_operator.routes import Routes
from forebay_operator.sent import Sent
from forebay_operator.settling import Settling
from forebay_operator.snapshot import Measurements, Observer
from forebay_operator.status import Statuses, Urls
from forebay_operator.subject import Subject
from forebay_operator.term import Term
from forebay_operator.timeline import Timeline
from forebay_operator.together import together
from forebay_operator.view import Json, Scene, View, draw
from forebay_wire.v1 import demand_pb2_grpc, fleet_pb2, fleet_pb2_grpc, preview_pb2_grpc, view_pb2_grpc


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; tests shorten them. ``silence``: without a report, a worker or a gateway is gone. ``grow`` and
    ``shrink``: see ``Settling``."""

    silence: float = 3.0
    grow: float = 1.5
    shrink: float = 3.0


TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Parts:
    """One operator that acts, from the beginning of its term to the end."""

    functions: Functions
    fleet: Fleet
    demand: Demand
    routes: Routes
    view: View
    previews: Previews
    control: Control
    alarm: Alarm

    def attend(self, doors: Doors) -> None:
        """Let workers, gateways and watchers in."""
        fleet_pb2_grpc.add_FleetServicer_to_server(self.fleet, doors)
        demand_pb2_grpc.add_DemandServicer_to_server(self.demand, doors)
        demand_pb2_grpc.add_RoutesServicer_to_server(self.routes, doors)
        self.attend_watchers(doors)

    def attend_watchers(self, doors: Doors) -> None:
        view_pb2_grpc.add_ViewServicer_to_server(self.view, doors)

    def attend_people(self, doors: Doors) -> None:
        """Let in who comes by the operator's own port."""
        self.attend_watchers(doors)
        preview_pb2_grpc.add_PreviewServicer_to_server(self.previews, doors)

    async def run(self, source: AsyncIterator[LoadedFunctions]) -> None:
        """Until cancelled. A source that ends has said all that it will ever say; one that raises ends us."""
        try:
            await together(self.functions.follow(source), self.control.run())
        finally:
            self.control.decisions.keep(())  # a standby shows no numbers of a term that is over


def assemble(
    term: Term,
    urls: Urls,
    timing: Timing,
    *,
    estate: Callable[[], Estate] = Estate,
    passed: Callable[[Outcome], None] = lambda _: None,
    credentials: Credentials | None = None,
    stranger: Callable[[fleet_pb2.WorkerReport], str] = lambda _: "",
    measurements: Measurements | None = None,
) -> Parts:
    """``estate``: what is known of workers besides what they say; ``passed`` is called after each pass;
    ``credentials``: where secrets of functions are found, by default in the environment;
    ``stranger``: why a worker is not who it says; ``measurements``: what Prometheus says, where one is asked."""
    began = time.time()
    alarm = Alarm()
    inspections = Inspections()
    timeline = Timeline()
    decisions = Decisions()

    def inspected(answer: fleet_pb2.Inspection) -> None:
        if not previews.hear(answer):
            inspections.hear(answer)

    fleet = Fleet(term, wake=alarm.within, inspected=inspected, silence=timing.silence, stranger=stranger)
    previews = Previews(fleet, lambda: control.outcome.seen)
    demand = Demand(wake=alarm.within, first_token=timeline.first_token, silence=timing.silence)
    functions = Functions(changed=_on_change(inspections, demand, timeline, decisions, alarm))
    observer = Observer(functions, fleet, demand, inspections, estate, measurements=measurements)
    routes = Routes()

    def present() -> Json:
        outcome = control.outcome
        operator: Json = {"term": term.number, "startedAt": began, "url": urls.gateway}
        return draw(
            Scene(
                outcome.seen,
                outcome.statuses,
                outcome.progress,
                fleet.workers,
                timeline.newest_first(),
                outcome.scaling,
                decisions.newest_first,
                operator,
            )
        )

    view = View(present)

    def shown() -> None:
        view.changed()
        passed(control.outcome)

    control = Control(
        term=term,
        alarm=alarm,
        observer=observer,
        actor=Actor(fleet, inspections, Sent(), observer.epochs, credentials or FromEnvironment()),
        timeline=timeline,
        statuses=Statuses(urls),
        decisions=decisions,
        routes=routes,
        settling=Settling(began, timing.grow, timing.shrink),
        shown=shown,
    )
    return Parts(functions, fleet, demand, routes, view, previews, control, alarm)


def _on_change(
    inspections: Inspections, demand: Demand, timeline: Timeline, decisions: Decisions, alarm: Alarm
) -> Callable[[Mapping[FunctionKey, Known], Mapping[FunctionKey, Known]], None]:
    """What to do when functions came, went or changed: forget what concerns others, look anew, decide anew."""

    def changed(before: Mapping[FunctionKey, Known], after: Mapping[FunctionKey, Known]) -> None:
        for key, known in after.items():
            if key in before and before[key].function.generation != known.function.generation:
                inspections.forget_failure(Subject.of(known.function))
        inspections.keep({Subject.of(known.function) for known in after.values()})
        demand.keep({key: known.function.spec.scaling for key, known in after.items()})
        timeline.keep(after.keys())
        decisions.keep(after.keys())
        alarm.within(0.0)

    return changed
