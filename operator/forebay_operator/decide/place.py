"""Which workers may take part in serving a backbone, the preferred first."""

from __future__ import annotations

from collections.abc import Set

from forebay_api.conditions import Reason
from forebay_operator.decide.cut import Refusal
from forebay_operator.decide.ledger import room, unit_bytes
from forebay_operator.decide.seen import HoldingSeen, Snapshot, WorkerSeen

NOTHING = HoldingSeen()


def candidates(seen: Snapshot, backbone: str, banned: Set[str] = frozenset()) -> tuple[WorkerSeen, ...]:
    """Ready workers that may load ``backbone``: first those that hold most of it, then with most room, then busy with
    the fewest other backbones, then by name. Not those that just drop it, nor those where loading it failed."""
    model = seen.backbones[backbone].model

    def rank(worker: WorkerSeen) -> tuple[int, int, int, str]:
        held = unit_bytes(model, worker.holdings.get(backbone, NOTHING).resident)
        return -held, -room(seen, worker, backbone), _others(seen, worker, backbone), worker.name

    return tuple(sorted((w for w in seen.workers if usable(seen, backbone, w, banned)), key=rank))


def complete(seen: Snapshot, backbone: str, banned: Set[str] = frozenset()) -> tuple[str, ...]:
    """Candidates that have all of ``backbone``."""
    size = len(seen.backbones[backbone].model.units)
    return tuple(
        worker.name
        for worker in seen.holders.get(backbone, ())
        if len(worker.holdings[backbone].resident) == size and usable(seen, backbone, worker, banned)
    )


def usable(seen: Snapshot, backbone: str, worker: WorkerSeen, banned: Set[str]) -> bool:
    """Whether ``worker`` is a candidate."""
    held = worker.holdings.get(backbone, NOTHING)
    failed = bool(held.error) and len(held.resident) < len(seen.backbones[backbone].model.units)
    return worker.ready and worker.name not in banned and not held.leaving and not failed


def nobody(seen: Snapshot, backbone: str) -> Refusal:
    """Why there is no candidate."""
    for worker in seen.workers:
        held = worker.holdings.get(backbone)
        if held is not None and held.error:
            return Refusal(Reason.MODEL_LOAD_FAILED, f"{worker.name}: {held.error}")
    return Refusal(Reason.NO_WORKER, "no worker is ready to hold the model")


def _others(seen: Snapshot, worker: WorkerSeen, backbone: str) -> int:
    """Backbones other than ``backbone`` that ``worker`` serves."""
    return len({pipeline.backbone for pipeline in seen.by_worker.get(worker.name, ()) if pipeline.backbone != backbone})
