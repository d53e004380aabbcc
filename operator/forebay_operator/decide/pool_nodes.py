"""Which nodes a pool is for, and what keeps new pods from one of them."""

from __future__ import annotations

from enum import StrEnum

from forebay_operator.decide.pool_seen import NodeSeen, PoolSeen, Taint, Toleration

KEEPS_OUT = ("NoSchedule", "NoExecute")


class NodeState(StrEnum):
    """``FOREIGN``: its labels are not those that the pool selects. New pods come on ``OPEN`` nodes alone."""

    OPEN = "Open"
    NOT_READY = "NotReady"
    CORDONED = "Cordoned"
    TAINTED = "Tainted"
    FOREIGN = "Foreign"


def state(pool: PoolSeen, node: NodeSeen) -> NodeState:
    if not node.labels.items() >= pool.selector.items():
        return NodeState.FOREIGN
    if not node.ready:
        return NodeState.NOT_READY
    if node.cordoned:
        return NodeState.CORDONED
    if any(taint.effect in KEEPS_OUT and not _tolerated(taint, pool) for taint in node.taints):
        return NodeState.TAINTED
    return NodeState.OPEN


def _tolerated(taint: Taint, pool: PoolSeen) -> bool:
    return any(_tolerates(toleration, taint) for toleration in pool.tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    """As the scheduler reads them."""
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    return toleration.operator == "Exists" or (toleration.key == taint.key and toleration.value == taint.value)
