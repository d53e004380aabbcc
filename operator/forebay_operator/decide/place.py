"""Which workers may take part in serving a backbone, the preferred first."""

from __future__ import annotations

from collections.abc import Mapping, Set

from forebay_api.conditions import Reason
from forebay_operator.decide.cut import Refusal
from forebay_operator.decide.ledger import book, owed, room, unit_bytes
from forebay_operator.decide.seen import Able, Snapshot, WorkerSeen

NONE = frozenset[str]()


def candidates(seen: Snapshot, backbone: str, banned: Set[str] = frozenset()) -> tuple[WorkerSeen, ...]:
    """Ready workers that may load ``backbone``: first those that hold most of it, then with most room, then busy with
    the fewest other backbones, then by name. Not those that just drop it, nor those where loading it failed."""
    return _able(seen, backbone, banned).workers


def rooms(seen: Snapshot, backbone: str, banned: Set[str] = frozenset()) -> Mapping[str, int]:
    """Bytes that each candidate could still give, as `ledger.room` has it."""
    return _able(seen, backbone, banned).rooms


def behind(seen: Snapshot, backbone: str, banned: Set[str] = frozenset()) -> Mapping[str, int]:
    """Bytes that the link of each candidate brings first, as `ledger.owed` has it, where there are some."""
    return _able(seen, backbone, banned).owed


def _able(seen: Snapshot, backbone: str, banned: Set[str]) -> Able:
    """Worked out once for each backbone of a snapshot, and once for all those that nobody has anything of: they are the
    same to every worker."""
    known = backbone in seen.holders or backbone in seen.by_backbone
    asked = backbone if known else "", frozenset(banned)
    if asked not in seen.able:
        model = seen.backbones[backbone].model
        ranked, first = [], {}
        for worker in seen.workers:
            name = worker.name
            if not worker.ready or name in banned:
                continue
            spoken = book(seen, worker)
            held, free, owes, serves = 0, spoken.free, spoken.owed, spoken.serves
            if known:
                if not usable(seen, backbone, worker, banned):
                    continue
                if backbone in worker.holdings:
                    held, free = unit_bytes(model, worker.holdings[backbone].resident), room(seen, worker, backbone)
                    owes = owed(seen, worker, backbone)
                serves -= backbone in seen.served.get(name, NONE)
            if owes:
                first[name] = owes
            ranked.append((-held, -free, serves, name, worker))
        ranked.sort()
        seen.able[asked] = Able(tuple([each[4] for each in ranked]), {each[3]: -each[1] for each in ranked}, first)
    return seen.able[asked]


def complete(seen: Snapshot, backbone: str, banned: Set[str] = frozenset()) -> tuple[str, ...]:
    """Candidates that have all of ``backbone``."""
    size = len(seen.backbones[backbone].model.units)
    return tuple(
        [
            worker.name
            for worker in seen.holders.get(backbone, ())
            if len(worker.holdings[backbone].resident) == size and usable(seen, backbone, worker, banned)
        ]
    )


def usable(seen: Snapshot, backbone: str, worker: WorkerSeen, banned: Set[str]) -> bool:
    """Whether ``worker`` is a candidate."""
    held = worker.holdings.get(backbone)
    if not worker.ready or worker.name in banned or held is None:
        return worker.ready and worker.name not in banned
    failed = bool(held.error) and len(held.resident) < len(seen.backbones[backbone].model.units)
    return not held.leaving and not failed


def nobody(seen: Snapshot, backbone: str) -> Refusal:
    """Why there is no candidate."""
    for worker in seen.workers:
        held = worker.holdings.get(backbone)
        if held is not None and held.error:
            return Refusal(Reason.MODEL_LOAD_FAILED, f"{worker.name}: {held.error}")
    return Refusal(Reason.NO_WORKER, "no worker is ready to hold the model")
