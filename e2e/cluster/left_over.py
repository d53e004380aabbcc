"""What is left over in an installation without functions, in words."""

from __future__ import annotations

from cluster.installed import Installed

from cluster import companion, kube, metrics

COUNTED = ("forebay_inflight", "forebay_queue_depth")
"""A gateway's gauges of requests at heads and of held ones, by function."""


def found(forebay: Installed) -> list[str]:
    """Empty once there is nothing. Raises `Failed` where somebody who must know does not answer."""
    pods = kube.listed("pods", forebay.namespace, f"app.kubernetes.io/instance={forebay.name}")
    ending = [f"pod {_name(pod)} is Terminating" for pod in pods if "deletionTimestamp" in pod["metadata"]]
    return [*ending, *_at_workers(forebay), *_at_gateways(forebay)]


def _at_workers(forebay: Installed) -> list[str]:
    """By the operator that leads, which must know all workers by now."""
    known = {worker["name"]: worker for worker in companion.workers()}
    unknown = [f"{_name(pod)} is not attached" for pod in forebay.pods("worker") if _name(pod) not in known]
    full = [
        f"{name} has {worker['residentBytes']} bytes and holds {worker['holds']}, {worker['loading']}"
        for name, worker in known.items()
        if worker["residentBytes"] or worker["holds"] or worker["loading"]
    ]
    formed = [f"pipeline {pipeline['epoch']} is {pipeline['phase']}" for pipeline in companion.pipelines()]
    return [*unknown, *full, *formed]


def _at_gateways(forebay: Installed) -> list[str]:
    return [f"{_name(pod)}: {line}" for pod in forebay.pods("gateway") for line in _counted(pod)]


def _counted(gateway: kube.Body) -> list[str]:
    """Its series of `COUNTED` that are not 0."""
    told = [metrics.of(gateway, metrics.GATEWAY, name).items() for name in COUNTED]
    return [f"{series} is {value:g}" for found in told for series, value in found if value]


def _name(pod: kube.Body) -> str:
    return str(pod["metadata"]["name"])
