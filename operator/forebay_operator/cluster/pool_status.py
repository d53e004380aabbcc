"""What a person reads of a pool: how many workers, on which nodes, and why not as many as asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from forebay_api import names
from forebay_api.conditions import Condition, ConditionType, Reason, Status
from forebay_operator.cluster import pool_view
from forebay_operator.cluster.seen import Body
from forebay_operator.decide.pool_nodes import NodeState
from forebay_operator.decide.pools import PoolCount

MOST_NODES = 1000
MOST_TROUBLES = 3
LONGEST_MESSAGE = 1024

TERMINAL = (pool_view.IMAGE_MISSING,)
"""Troubles that a person must end."""

WORDS: Mapping[NodeState, str] = {
    NodeState.NOT_READY: "is not ready",
    NodeState.CORDONED: "is cordoned",
    NodeState.TAINTED: "has a taint that the pool does not tolerate",
}

Verdict = tuple[Status, str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """``error``: (reason, message) of what no pod can be made for; ``refused``: what the API server said when one was
    last to be made; ``troubles``: (pod, reason, message) of pods that do not run; ``sick``: those whose device is
    unhealthy; ``wanted``: whether the pool asks for workers at all."""

    generation: int
    count: PoolCount = field(default_factory=PoolCount)
    error: tuple[str, str] | None = None
    refused: str = ""
    troubles: tuple[tuple[str, str, str], ...] = ()
    sick: tuple[str, ...] = ()
    wanted: bool = True
    resource: str = ""

    @property
    def selected(self) -> int:
        return sum(node.state is not NodeState.FOREIGN for node in self.count.nodes)

    @property
    def terminal(self) -> tuple[str, str] | None:
        if self.error is not None:
            return self.error
        stuck = [(pod, why) for pod, reason, why in self.troubles if reason in TERMINAL]
        return (pool_view.IMAGE_MISSING, _listed([f"{pod}: {why}" for pod, why in stuck])) if stuck else None


def status(look: Look, before: Body, now: float) -> dict[str, Any]:
    """The whole status; conditions that are as in ``before`` (the status now stored) keep their time."""
    count = look.count
    nodes = [node for node in count.nodes if node.state is not NodeState.FOREIGN][:MOST_NODES]
    last = {found.get("type"): found for found in before.get("conditions") or ()}
    conditions = (
        Condition(kind, *verdict(look), look.generation, now).following(_stored(last.get(kind)))
        for kind, verdict in VERDICTS
    )
    return {
        "observedGeneration": look.generation,
        "selectedNodes": look.selected,
        "desiredWorkers": count.desired,
        "readyWorkers": count.ready,
        "updatedWorkers": count.updated,
        "nodes": [{"name": node.name, "desired": node.desired, "ready": node.ready} for node in nodes],
        "conditions": [_written(condition) for condition in conditions],
    }


def body(namespace: str, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """To be applied to the status subresource."""
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": names.API_VERSION, "kind": names.POOL_KIND, "metadata": metadata, "status": dict(found)}


def stored_like(found: Mapping[str, Any], stored: Body) -> bool:
    """Whether ``stored`` says all that ``found`` does. Conditions of other writers do not matter."""
    ours = {condition["type"] for condition in found["conditions"]}
    theirs = [condition for condition in stored.get("conditions") or () if condition.get("type") in ours]
    return all(stored.get(key) == value for key, value in found.items() if key != "conditions") and sorted(
        theirs, key=_kind
    ) == sorted(found["conditions"], key=_kind)


def _kind(condition: Mapping[str, Any]) -> str:
    return str(condition.get("type"))


def _stored(found: Mapping[str, Any] | None) -> Condition | None:
    if found is None or found.get("status") not in tuple(Status):
        return None
    since = pool_view.unix_seconds(found.get("lastTransitionTime"))
    return Condition(ConditionType(found["type"]), Status(found["status"]), "", since=since)


def _written(condition: Condition) -> dict[str, Any]:
    return {
        "type": str(condition.type),
        "status": str(condition.status),
        "reason": str(condition.reason),
        "message": condition.message[:LONGEST_MESSAGE],
        "observedGeneration": condition.observed_generation,
        "lastTransitionTime": datetime.fromtimestamp(int(condition.since), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _ready(look: Look) -> Verdict:
    count = look.count
    if look.terminal is not None:
        return Status.FALSE, *look.terminal
    if not look.wanted:
        return Status.TRUE, Reason.READY, "gpusPerNode is 0"
    if not look.selected:
        return Status.FALSE, Reason.NO_MATCHING_NODES, "no node has the labels of spec.nodeSelector"
    if count.desired and count.ready == count.desired:
        return Status.TRUE, Reason.READY, _listed(_sick(look))
    why = _hindrances(look)
    reason = Reason.WORKERS_NOT_READY if why or not count.desired else Reason.PROGRESSING
    lack = f"{count.ready} of {count.desired} workers are ready" if count.desired else f"no node offers {look.resource}"
    return Status.FALSE, reason, _listed([lack, *why])


def _reconciling(look: Look) -> Verdict:
    count = look.count
    if look.terminal is not None:
        return Status.FALSE, look.terminal[0], ""
    surplus = sum(max(0, node.live - node.desired) for node in count.nodes)
    steps = (
        (count.ready < count.desired, f"{count.ready} of {count.desired} workers are ready"),
        (count.updated < count.desired, f"{count.updated} of {count.desired} workers follow the spec"),
        (surplus > 0, f"{surplus} too many"),
    )
    if todo := [said for missing, said in steps if missing]:
        return Status.TRUE, Reason.PROGRESSING, "; ".join(todo)
    return Status.FALSE, Reason.READY, ""


def _stalled(look: Look) -> Verdict:
    if look.terminal is not None:
        return Status.TRUE, *look.terminal
    return Status.FALSE, Reason.READY, ""


def _hindrances(look: Look) -> list[str]:
    return [
        *filter(None, (look.refused,)),
        *(f"{pod}: {why}" for pod, _, why in look.troubles),
        *_sick(look),
        *(f"claim {name} is another's or about to go" for name in look.count.blocked),
        *(f"node {node.name} {WORDS[node.state]}" for node in look.count.nodes if node.state in WORDS),
    ]


def _sick(look: Look) -> list[str]:
    return [f"{pod}: its device is unhealthy, it gets no work" for pod in look.sick]


def _listed(said: list[str]) -> str:
    """The first few; that there are more is said too."""
    shown = "; ".join(said[: MOST_TROUBLES + 1])
    return shown if len(said) <= MOST_TROUBLES + 1 else f"{shown}; and {len(said) - MOST_TROUBLES - 1} more"


VERDICTS = (
    (ConditionType.READY, _ready),
    (ConditionType.RECONCILING, _reconciling),
    (ConditionType.STALLED, _stalled),
)
