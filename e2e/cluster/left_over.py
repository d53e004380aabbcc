"""What is left over in an installation without functions, in words."""

from __future__ import annotations

import urllib.request

from cluster.installed import Installed
from testbed.shell import Failed

from cluster import companion, kube

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
    url = f"http://{gateway['status']['podIP']}:8080/metrics"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        raise Failed(f"{_name(gateway)}: {url}: {error}") from error
    series = [line for line in lines if line.partition("{")[0].partition(" ")[0] in COUNTED]
    return [line for line in series if float(line.rpartition(" ")[2])]


def _name(pod: kube.Body) -> str:
    return str(pod["metadata"]["name"])
