"""The test bed itself, without Forebay: what the other tests take for granted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.kube import Body
from testbed import gpus, images, needs, trees
from testbed.cluster import Cluster
from testbed.shell import Failed

from cluster import kube


def pod(name: str, *command: str) -> Body:
    """A restricted pod with one GPU and the environment mounted, as Forebay's workers are."""
    mounts = dict(zip(("environment", "interpreter"), trees.Mounts.here().paths, strict=True))
    container = {
        "name": "only",
        "image": f"{images.FOREBAY}-worker:{images.TAG}",
        "imagePullPolicy": "Never",
        "command": list(command),
        "resources": {"limits": {gpus.RESOURCE: 1}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": n, "mountPath": str(path), "readOnly": True} for n, path in mounts.items()],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": n, "hostPath": {"path": str(path)}} for n, path in mounts.items()],
        },
    }


@pytest.fixture
def removed() -> Iterator[list[str]]:
    """Names of pods that go after the test."""
    names: list[str] = []
    yield names
    for name in names:
        kube.delete("pod", name, "default", grace=1)


def test_what_the_machine_lacks_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as bare:
        bare.setattr(os, "geteuid", lambda: 1000)
        bare.setattr(shutil, "which", lambda program: None)
        bare.setattr(Path, "exists", lambda path: False)
        with pytest.raises(Failed) as refused:
            needs.check(build=True)
    said = str(refused.value)
    for what in ("root:", "Debian", "nsenter: install util-linux", "Go 1.26 or newer: no `go` in PATH"):
        assert f"\n  - {what}" in said


def test_two_nodes_offer_four_gpus_each(bed: Cluster) -> None:
    nodes = kube.listed("nodes")
    assert [node["metadata"]["name"] for node in nodes] == ["node1", "node2"]
    assert [kube.condition(node, "Ready") for node in nodes] == ["True", "True"]
    assert [node["status"]["allocatable"][gpus.RESOURCE] for node in nodes] == ["4", "4"]


def test_a_restricted_pod_gets_a_gpu_dns_and_the_environment(bed: Cluster, removed: list[str]) -> None:
    removed.append("probe")
    program = (
        "import os, socket, json, torch, forebay_worker;"
        "print(json.dumps([os.environ['NVIDIA_VISIBLE_DEVICES'], socket.gethostbyname('kubernetes.default.svc'),"
        " forebay_worker.__file__, float(torch.ones(2).sum())]))"
    )
    kube.apply(pod("probe", "python", "-c", program), namespace="default")
    done = kube.until(
        lambda: kube.get("pod", "probe", "default"),
        lambda seen: seen["status"]["phase"] in ("Succeeded", "Failed"),
        "the probe ends",
    )
    said = kube.kubectl("logs", "probe", "-n", "default")
    assert done["status"]["phase"] == "Succeeded", said
    device, address, package, total = json.loads(said)
    assert device.startswith(f"GPU-{done['spec']['nodeName']}-")
    assert address == "10.96.0.1"
    assert package == f"/{trees.LIBRARY}/forebay_worker/__init__.py"
    assert total == 2.0


def test_an_ill_gpu_is_seen_in_the_node_and_in_the_pod_that_holds_it(bed: Cluster, removed: list[str]) -> None:
    removed.append("holder")
    kube.apply(pod("holder", "sleep", "600"), namespace="default")
    running = kube.until(
        lambda: kube.get("pod", "holder", "default"), lambda seen: seen["status"]["phase"] == "Running", "it runs"
    )

    def health(seen: Body) -> str:
        held = seen["status"]["containerStatuses"][0].get("allocatedResourcesStatus", [])
        return str(held[0]["resources"][0]["health"]) if held else ""

    def device() -> int:
        seen = kube.until(look, lambda seen: health(seen) == "Healthy", "the status names the device")
        named = seen["status"]["containerStatuses"][0]["allocatedResourcesStatus"][0]["resources"][0]["resourceID"]
        return int(str(named).rpartition("-")[2])

    def look() -> Body:
        return kube.get("pod", "holder", "default")

    node = bed.node(running["spec"]["nodeName"])
    number = device()
    gpus.set_health(node, number, healthy=False)
    try:
        kube.until(look, lambda seen: health(seen) == "Unhealthy", "the pod's device is ill")
        kube.until(
            lambda: kube.get("node", node.name),
            lambda seen: seen["status"]["allocatable"][gpus.RESOURCE] == "3",
            "the node offers three",
        )
    finally:
        gpus.set_health(node, number, healthy=True)
    kube.until(look, lambda seen: health(seen) == "Healthy", "the pod's device is well")


def test_services_are_reached_by_name_from_here(bed: Cluster) -> None:
    asked = ["curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "https://kubernetes.default.svc/livez"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout == "200"
