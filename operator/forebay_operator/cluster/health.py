"""Which workers hold a device that their node calls unhealthy, as their pods' status says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Body = Mapping[str, Any]

UNHEALTHY = "Unhealthy"
"""Unlike "Unknown", which only says that the device plugin is silent: it may be starting anew."""


def sick_devices(pod: Body) -> tuple[str, ...]:
    """``resource device`` of each unhealthy one, sorted."""
    return tuple(
        sorted(
            f"{held.get('name', '')} {device.get('resourceID', '')}".strip()
            for container in pod.get("status", {}).get("containerStatuses") or ()
            for held in container.get("allocatedResourcesStatus") or ()
            for device in held.get("resources") or ()
            if device.get("health") == UNHEALTHY
        )
    )


def unhealthy(pods: Iterable[Body]) -> frozenset[str]:
    """Names of workers that must get no work. A worker is called as its pod."""
    return frozenset(str(pod["metadata"]["name"]) for pod in pods if sick_devices(pod))
