"""Small pools, nodes and pods for tests of decisions."""

from __future__ import annotations

from dataclasses import replace

from forebay_operator.decide.pool_seen import ClaimSeen, Death, Load, NodeSeen, PodSeen, PoolSeen, PoolsSeen
from forebay_operator.decide.pools import CreatePod, DeletePod, PoolPlan, Why, next_pool_steps

NOW = 10_000.0
GPU = "nvidia.com/gpu"
POOL = PoolSeen("p", "pool-uid", {"gpu": "yes"}, gpus_per_node=2, resource=GPU, template="new")
NODE = NodeSeen("a", {"gpu": "yes", "zone": "1"}, allocatable={GPU: 4})
OTHER = replace(NODE, name="b")
CLAIMS = (ClaimSeen("p-a", "pool-uid"), ClaimSeen("p-b", "pool-uid"))


def pod(name: str = "p-a-0", **changes: object) -> PodSeen:
    usual = PodSeen(
        name, f"{name}-uid", "pool-uid", name.split("-")[1], frozenset((GPU,)), "new", created=NOW - 5000, ready=True
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def old(name: str, **changes: object) -> PodSeen:
    return pod(name, template="old", **changes)


def plan(
    *pods: PodSeen,
    pool: PoolSeen = POOL,
    nodes: tuple[NodeSeen, ...] = (NODE,),
    claims: tuple[ClaimSeen, ...] = CLAIMS,
    loads: dict[str, Load] | None = None,
    deaths: dict[str, Death] | None = None,
) -> PoolPlan:
    """``loads``: all attached and idle unless given."""
    attached = {pod.name: Load() for pod in pods} | (loads or {})
    return next_pool_steps(PoolsSeen((pool,), nodes, pods, claims, attached, deaths or {}), NOW)


def created(found: PoolPlan) -> list[str]:
    return [step.name for step in found.steps if isinstance(step, CreatePod)]


def deleted(found: PoolPlan) -> list[tuple[str, Why]]:
    return [(step.name, step.why) for step in found.steps if isinstance(step, DeletePod)]
