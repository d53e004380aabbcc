"""What bodies of the API server say: sick devices, nodes, times."""

from __future__ import annotations

from typing import Any

import pytest

from forebay_operator.cluster.health import sick_devices, unhealthy
from forebay_operator.cluster.pool_view import node_seen, unix_seconds


def pod(name: str, *health: str) -> dict[str, Any]:
    devices = [{"resourceID": f"GPU-{i}", "health": one} for i, one in enumerate(health)]
    held = [{"name": "nvidia.com/gpu", "resources": devices}]
    return {"metadata": {"name": name}, "status": {"containerStatuses": [{"allocatedResourcesStatus": held}]}}


def test_workers_with_a_sick_device_are_named() -> None:
    assert unhealthy([pod("a", "Healthy"), pod("b", "Unhealthy"), pod("c", "Unknown"), pod("d")]) == {"b"}
    assert sick_devices(pod("b", "Healthy", "Unhealthy")) == ("nvidia.com/gpu GPU-1",)


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"containerStatuses": None},
        {"containerStatuses": [{}]},
        {"containerStatuses": [{"allocatedResourcesStatus": [{"name": "nvidia.com/gpu"}]}]},
    ],
)
def test_a_kubelet_that_says_nothing_says_nothing_bad(status: dict[str, Any]) -> None:
    assert sick_devices({"metadata": {"name": "a"}, "status": status}) == ()


def test_a_time_that_is_none_is_the_beginning() -> None:
    assert unix_seconds("1970-01-01T00:01:40Z") == 100
    assert unix_seconds("soon") == unix_seconds(None) == 0


def test_a_node_that_says_nothing_takes_no_pods() -> None:
    seen = node_seen({"metadata": {"name": "n"}})
    assert (seen.ready, seen.cordoned, seen.allocatable, seen.taints) == (False, False, {}, ())
