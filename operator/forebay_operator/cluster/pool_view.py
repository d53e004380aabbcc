"""Objects of the API server as decisions about pools see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from forebay_api.pool import MOST_GPUS, Pool
from forebay_operator.cluster import health, pods
from forebay_operator.cluster.seen import Body
from forebay_operator.cluster.template import TEMPLATE_ANNOTATION, PodSettings
from forebay_operator.decide.pool_seen import ClaimSeen, Load, NodeSeen, PodSeen, PoolSeen, Taint, Toleration
from forebay_operator.decide.seen import WorkerSeen

IMAGE_MISSING = "ImageMissing"
NOT_PULLED = "NotPulled"
CRASHING = "Crashing"
ENDED = "Ended"
MISCONFIGURED = "Misconfigured"
UNSCHEDULABLE = "Unschedulable"
OVERDUE = "Overdue"

LATE = 60.0
"""Seconds after its grace period after which a pod that is still there is spoken of."""

DEAD = ("Failed", "Succeeded")

WAITING: Mapping[str, tuple[str, str]] = {
    "ErrImagePull": (NOT_PULLED, "its image cannot be pulled"),
    "ImagePullBackOff": (NOT_PULLED, "its image cannot be pulled"),
    "ErrImageNeverPull": (IMAGE_MISSING, "its image is not on the node, and imagePullPolicy is Never"),
    "InvalidImageName": (IMAGE_MISSING, "its image has no valid name"),
    "CrashLoopBackOff": (CRASHING, "its worker ends again and again"),
    "CreateContainerConfigError": (MISCONFIGURED, "a Secret or ConfigMap of its container is missing"),
    "CreateContainerError": (MISCONFIGURED, "its container cannot be made"),
    "RunContainerError": (MISCONFIGURED, "its container cannot be started"),
}
"""The kubelet's words for why a container waits, as ours: its own change from look to look."""


def pool_seen(pool: Pool, settings: PodSettings) -> PoolSeen:
    spec = pool.spec
    return PoolSeen(
        name=pool.name,
        uid=pool.uid,
        selector=spec.node_selector,
        gpus_per_node=MOST_GPUS if spec.gpus_per_node is None else spec.gpus_per_node,
        resource=spec.resource_name,
        template=pods.template(pool, settings),
        max_unavailable=spec.max_unavailable,
        cache=spec.cache is not None and spec.cache.claim_template is not None,
        tolerations=tuple(map(_toleration, pods.tolerations(pool))),
    )


def node_seen(body: Body) -> NodeSeen:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    return NodeSeen(
        name=body["metadata"]["name"],
        labels=body["metadata"].get("labels") or {},
        ready=_condition(status, "Ready").get("status") == "True",
        cordoned=bool(spec.get("unschedulable")),
        allocatable={name: _count(amount) for name, amount in (status.get("allocatable") or {}).items()},
        taints=tuple(
            Taint(taint.get("key", ""), taint.get("effect", ""), taint.get("value") or "")
            for taint in spec.get("taints") or ()
        ),
    )


def pod_seen(body: Body) -> PodSeen:
    metadata, status = body["metadata"], body.get("status") or {}
    containers = body.get("spec", {}).get("containers") or ()
    created = unix_seconds(metadata.get("creationTimestamp"))
    ready = _condition(status, "Ready")
    limits = (containers[0].get("resources") or {}).get("limits") or {} if containers else {}
    return PodSeen(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        owner=owner_uid(body),
        node=pods.node_of(body),
        resources=frozenset(limits),
        template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
        bound=bool(body.get("spec", {}).get("nodeName")),
        created=created,
        ready=ready.get("status") == "True",
        since=unix_seconds(ready.get("lastTransitionTime")) or created,
        grace=float(body.get("spec", {}).get("terminationGracePeriodSeconds") or 0),
        dead=status.get("phase") in DEAD,
        leaving="deletionTimestamp" in metadata,
        by=unix_seconds(metadata.get("deletionTimestamp")),
        sick=bool(health.sick_devices(body)),
        restarts=sum(container.get("restartCount", 0) for container in status.get("containerStatuses") or ()),
        trouble=_trouble(status),
    )


def troubles(pods: Sequence[PodSeen]) -> list[tuple[str, str, str]]:
    """(pod, reason, message) of pods of one pool that do not run. Where others of the same template do, their image is
    there, and that one was not pulled will pass."""
    pulled = {pod.template for pod in pods if pod.ready}
    found = []
    for pod in pods:
        if pod.trouble and not pod.ready and not pod.leaving:
            reason, why = pod.trouble
            missing = reason == NOT_PULLED and pod.template not in pulled
            found.append((pod.name, IMAGE_MISSING if missing else reason, why))
    return found


def overdue(pods: Iterable[PodSeen], now: float) -> tuple[list[tuple[str, str, str]], float | None]:
    """(pod, reason, message) of pods that their node should have ended, and when (unix seconds) there will be more.
    They are not removed by force: what runs in one may still use its device."""
    leaving = sorted((pod for pod in pods if pod.leaving and pod.by), key=lambda pod: pod.name)
    late = [(pod.name, OVERDUE, "told to end, and its node has not done so") for pod in leaving if pod.by + LATE <= now]
    return late, min((pod.by + LATE for pod in leaving if pod.by + LATE > now), default=None)


def claim_seen(body: Body) -> ClaimSeen:
    return ClaimSeen(body["metadata"]["name"], owner_uid(body), "deletionTimestamp" in body["metadata"])


def load(worker: WorkerSeen) -> Load:
    return Load(
        pipelines=len(worker.kv_bytes),
        kv=sum(worker.kv_bytes.values()),
        weights=sum(holding.bytes_loaded for holding in worker.holdings.values()),
    )


def owner_uid(body: Body) -> str:
    """Of the controller; empty where there is none."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def unix_seconds(found: object) -> float:
    """Of a time as JSON carries it; 0 where there is none."""
    try:
        return datetime.fromisoformat(found).timestamp() if isinstance(found, str) else 0.0
    except ValueError:
        return 0.0


def _toleration(body: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=body.get("key") or "",
        operator=body.get("operator") or "Equal",
        value=body.get("value") or "",
        effect=body.get("effect") or "",
    )


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((found for found in status.get("conditions") or () if found.get("type") == kind), {})


def _count(amount: object) -> int:
    """Devices are whole; of cores and memory nobody asks here."""
    text = str(amount)
    return int(text) if text.isdecimal() else 0


def _trouble(status: Mapping[str, Any]) -> tuple[str, str] | None:
    if status.get("phase") in DEAD:
        return ENDED, ": ".join(filter(None, ("it ended", status.get("reason"), status.get("message"))))
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in WAITING:
            reason, why = WAITING[waiting["reason"]]
            return reason, why + _last_words(container)
    placed = _condition(status, "PodScheduled")
    if placed.get("status") == "False" and placed.get("reason") == UNSCHEDULABLE:
        return UNSCHEDULABLE, str(placed.get("message") or "no node takes it").split(". ")[0]
    return None


def _last_words(container: Mapping[str, Any]) -> str:
    last = (container.get("lastState") or {}).get("terminated")
    return f", the last time with exit code {last.get('exitCode')} ({last.get('reason')})" if last else ""
