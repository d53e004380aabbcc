"""Steps that were sent and that no report has confirmed yet: nothing is ordered twice or waited for without end."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog
from prometheus_client import Counter

from forebay_api.model import Epoch
from forebay_operator.decide.intents import applied, settled
from forebay_operator.decide.seen import HoldingSeen, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Prepare, Step

log = structlog.get_logger(__name__)

PATIENCE = 3.0
"""Seconds in which a worker's report should show what it was told. Afterwards its reports alone are believed."""

PREPARE_PATIENCE = 30.0
"""Seconds for building a skeleton and measuring it; also the pause after a failed one."""

OVERDUE = Counter("forebay_commands_overdue_total", "Commands that no report confirmed in time.", ["command"])
for _step in (Prepare, Hold, Drop, Form, Drain, Dissolve):
    OVERDUE.labels(_step.__name__)  # from the start: a rate sees no rise where there was nothing before

PREPARES = 16
"""Skeletons that one worker builds, one after another, in that time; others wait for these."""

Key = tuple[str | Epoch, ...]


@dataclass(frozen=True, slots=True)
class _Order:
    """``told``: the incarnation of each worker that was told."""

    step: Step
    told: Mapping[str, str]
    at: float

    @property
    def until(self) -> float:
        return self.at + (PREPARE_PATIENCE if isinstance(self.step, Prepare) else PATIENCE)


class Sent:
    def __init__(self) -> None:
        self._orders: dict[Key, _Order] = {}
        self._urgent: dict[tuple[str, str], tuple[Hold, str]] = {}
        self._preparing: collections.Counter[str] = collections.Counter()

    def note(self, step: Step, told: Mapping[str, str], now: float) -> None:
        """Remember a step that was just sent to the workers ``told`` (name to incarnation)."""
        key = _key(step)
        self._orders.pop(key, None)  # a dict keeps the first place, and later steps are laid over earlier ones
        self._orders[key] = _Order(step, told, now)
        match step:
            case Prepare():
                self._preparing[step.worker] += 1
            case Hold():
                self._urgent[step.worker, step.backbone] = (step, told[step.worker])
                self._outdate("Drop", step.worker, step.backbone, step.order)
            case Drop():
                self._outdate("Hold", step.worker, step.backbone, step.units)
            case Dissolve():
                # It may be gone before every worker has reported it: nobody will confirm these any more.
                self._orders.pop(("Form", step.epoch), None)
                self._orders.pop(("Drain", step.epoch), None)

    def told_to_leave(self, epoch: Epoch) -> bool:
        return ("Drain", epoch) in self._orders or ("Dissolve", epoch) in self._orders

    def prepares(self, worker: str, backbone: str) -> bool:
        """Whether that was asked a moment ago, or so much else that it must wait."""
        return ("Prepare", worker, backbone) in self._orders or self._preparing[worker] >= PREPARES

    def laid_over(self, reported: Snapshot, now: float) -> Snapshot:
        """``reported`` as it is once all that is under way was heard. Forgets what is confirmed or overdue."""
        incarnations = {worker.name: worker.incarnation for worker in reported.workers}
        for key, order in list(self._orders.items()):
            lost = any(incarnations.get(worker) != told for worker, told in order.told.items())
            unborn = isinstance(order.step, Drain) and ("Form", order.step.epoch) in self._orders
            if lost or (settled(reported, order.step) and not unborn):
                del self._orders[key]
            elif order.until <= now:
                del self._orders[key]
                OVERDUE.labels(type(order.step).__name__).inc()
                log.warning(
                    "no report confirms a command", command=str(key[0]), subject=[str(part) for part in key[1:]]
                )
        steps = [order.step for order in self._orders.values()]
        self._preparing = collections.Counter(step.worker for step in steps if isinstance(step, Prepare))
        return applied(self._with_urgency(reported), steps)

    def wake_at(self) -> float | None:
        return min((order.until for order in self._orders.values()), default=None)

    def _with_urgency(self, reported: Snapshot) -> Snapshot:
        """Reports say the order but not how much of it was urgent."""
        present = {(worker.name, worker.incarnation) for worker in reported.workers}
        for (worker, backbone), (_, incarnation) in list(self._urgent.items()):
            if (worker, incarnation) not in present:
                del self._urgent[worker, backbone]
        return replace(reported, workers=tuple(self._hastened(worker) for worker in reported.workers))

    def _hastened(self, worker: WorkerSeen) -> WorkerSeen:
        def urgent(backbone: str, holding: HoldingSeen) -> int:
            told = self._urgent.get((worker.name, backbone))
            return told[0].urgent if told and told[0].order == holding.order else 0

        holdings = {
            backbone: replace(holding, urgent=urgent(backbone, holding))
            for backbone, holding in worker.holdings.items()
        }
        return replace(worker, holdings=holdings)

    def _outdate(self, command: str, worker: str, backbone: str, units: tuple[int, ...]) -> None:
        """Forget an earlier order about the same units of the same holding: the later one is what counts."""
        key = (command, worker, backbone)
        order = self._orders.get(key)
        if order is None:
            return
        earlier = order.step.order if isinstance(order.step, Hold) else getattr(order.step, "units", ())
        if not units or not earlier or not set(units).isdisjoint(earlier):
            del self._orders[key]


def _key(step: Step) -> Key:
    command = type(step).__name__
    match step:
        case Form() | Drain() | Dissolve():
            return (command, step.epoch)
        case Hold() | Drop() | Prepare():
            return (command, step.worker, step.backbone)
        case _:
            raise TypeError(f"{command} is not remembered here")
