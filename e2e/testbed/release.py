"""Forebay in a cluster of ours: the chart with the test bed's images, volumes of the nodes, and models in them.

Containers see the interpreter and `.venv` through the chart's own extra volumes, read-only: see `trees`. A node's
cache is a claim on a volume of that node, where models are put beforehand so that no test waits for a download.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed import gpus, images, trees
from testbed.cluster import Cluster
from testbed.shell import Failed, ran, run

CHART = trees.ROOT / "deploy" / "helm" / "forebay"
NAMESPACE, NAME = "forebay-system", "forebay"
DISKS = "node-disk"
"""StorageClass of volumes that lie on one node each."""
CLAIM_GIB = 4
HELM_LIMIT = 300.0


def disks(cluster: Cluster, count: int = 1) -> str:
    """Manifest of `DISKS` and, for each node, ``count`` volumes that wait for a pod before they are bound."""
    storage = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": DISKS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volumes = [_disk(cluster, node.name, number) for node in cluster.nodes for number in range(count)]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [storage, *volumes]})


def folder(cluster: Cluster, node: str, number: int = 0) -> Path:
    """Where a volume of ``node`` lies on this machine; a worker sees it as /cache."""
    return cluster.state / node / f"disk{number}"


def put_model(cluster: Cluster, checkpoint: Path, number: int = 0) -> str:
    """Copy a checkpoint into the caches of all nodes; its uri there. Times are kept: they are part of its identity."""
    for node in cluster.nodes:
        models = folder(cluster, node.name, number) / "models"
        if not (models / checkpoint.name).exists():
            models.mkdir(parents=True, exist_ok=True)
            shutil.copytree(checkpoint, models / checkpoint.name, copy_function=shutil.copy2)
            # The kubelet opens to a pod's group what it finds when it mounts the volume, and nothing later.
            for path in (models / checkpoint.name).iterdir():
                path.chmod(0o644)
    return f"file:///cache/models/{checkpoint.name}"


def namespace() -> str:
    """Manifest of the release's namespace. Only the mounted environment keeps it from enforcing `restricted`."""
    labels = {"pod-security.kubernetes.io/warn": "restricted"}
    return json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})


@dataclass(frozen=True)
class Settings:
    """``workers``: of each node; ``nodes``: only the first so many; ``env``: of the workers; ``values``: over all."""

    workers: int = 1
    nodes: int = 2
    operators: int = 2
    gateways: int = 2
    tag: str = images.TAG
    env: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def values(settings: Settings) -> dict[str, Any]:
    """Values of the chart."""
    volumes, mounts = _mounted(trees.Mounts.here())
    selector = {f"{gpus.RESOURCE}.product": gpus.PRODUCT}
    if settings.nodes == 1:
        selector["kubernetes.io/hostname"] = "node1"
    pool = {
        "nodeSelector": selector,
        "gpusPerNode": settings.workers,
        "cache": {"claimTemplate": {"size": f"{CLAIM_GIB}Gi", "storageClassName": DISKS}},
        "volumes": volumes,
        "volumeMounts": mounts,
        "terminationGracePeriodSeconds": 60,
        "resources": {"requests": {"memory": "256Mi"}},  # eight workers share this machine
        # The plugin's devices are none: whoever is given one would look for CUDA and end.
        "env": [{"name": name, "value": value} for name, value in {"FOREBAY_DEVICE": "cpu", **settings.env}.items()],
    }
    extra = {"extraVolumes": volumes, "extraVolumeMounts": mounts, "resources": {"requests": {"cpu": "10m"}}}
    chosen = {
        "image": {"repository": images.FOREBAY, "tag": settings.tag, "pullPolicy": "Never"},
        "worker": {
            "image": {"repository": f"{images.FOREBAY}-worker", "tag": settings.tag, "pullPolicy": "Never"},
        },
        "operator": {"replicas": settings.operators, **extra},
        "gateway": {"replicas": settings.gateways, "drainSeconds": 120, **extra},
        "workerPool": {"enabled": settings.workers > 0, "name": "default", "spec": pool},
    }
    return _over(chosen, settings.values)


def prepare(cluster: Cluster, checkpoint: Path) -> str:
    """Namespace, volumes and models, before the chart: the model's uri. Volumes that claims have left are freed."""
    for manifest in (namespace(), disks(cluster)):
        run("kubectl", "apply", "-f", "-", stdin=manifest)
    volumes, claims = _every("pv"), {claim["metadata"]["uid"] for claim in _every("pvc", "-A")}
    for volume in volumes:
        # Not by its phase: that follows a moment after the claim is gone.
        if volume["spec"].get("claimRef", {}).get("uid", "") not in {"", *claims}:
            freed = ("--type=merge", "-p", '{"spec": {"claimRef": null}}')
            run("kubectl", "patch", "pv", volume["metadata"]["name"], *freed)
    return put_model(cluster, checkpoint)


def _every(kind: str, *where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("kubectl", "get", kind, *where, "-o", "json"))["items"]
    return found


def install(cluster: Cluster, settings: Settings, helm: str = "helm") -> None:
    """Install or upgrade the release and wait until operator and gateway are there. Raises `Failed`."""
    file = cluster.state / "values.json"
    file.write_text(json.dumps(values(settings), indent=1))
    try:
        run(
            helm, "upgrade", "--install", NAME, CHART, "--namespace", NAMESPACE, "--create-namespace",
            "--values", file, "--wait", f"--timeout={HELM_LIMIT:g}s",
            limit=HELM_LIMIT + 30, env=_environment(cluster),
        )  # fmt: skip
    except Failed as error:
        raise Failed(f"{error}\n{unwell()}") from error


def unwell() -> str:
    """Pods of the release that are not Ready, and the last that they said."""
    told = [run("kubectl", "get", "pods", "-n", NAMESPACE, "-o", "wide")]
    for pod in json.loads(run("kubectl", "get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]:
        conditions = {found["type"]: found for found in pod["status"].get("conditions", ())}
        if conditions.get("Ready", {}).get("status") != "True":
            name = pod["metadata"]["name"]
            about = ("events", "-n", NAMESPACE, f"--for=pod/{name}")
            said = ran("kubectl", "logs", "-n", NAMESPACE, name, "--tail=15", limit=20)
            told += [f"--- {name}", ran("kubectl", *about, limit=20).stdout[-1500:], said.stdout[-3000:] or said.stderr]
    return "\n".join(told)


def uninstall(cluster: Cluster, helm: str = "helm") -> None:
    """Raises `Failed`."""
    run(
        helm, "uninstall", NAME, "--namespace", NAMESPACE, "--wait", f"--timeout={HELM_LIMIT:g}s", "--ignore-not-found",
        limit=HELM_LIMIT + 30, env=_environment(cluster),
    )  # fmt: skip


def _environment(cluster: Cluster) -> Mapping[str, str]:
    """helm's own state stays in the cluster's folder."""
    places = {f"HELM_{kind}_HOME": str(cluster.state / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    return {**os.environ, **places}


def _mounted(mounts: trees.Mounts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    named = dict(zip(("environment", "interpreter"), mounts.paths, strict=True))
    volumes = [{"name": name, "hostPath": {"path": str(path), "type": "Directory"}} for name, path in named.items()]
    inside = [{"name": name, "mountPath": str(path), "readOnly": True} for name, path in named.items()]
    return volumes, inside


def _disk(cluster: Cluster, node: str, number: int) -> dict[str, Any]:
    path = folder(cluster, node, number)
    path.mkdir(parents=True, exist_ok=True)
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{node}-{number}"},
        "spec": {
            "capacity": {"storage": f"{CLAIM_GIB}Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": DISKS,
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
        },
    }


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping, as helm does."""
    both = dict(below)
    for key, value in above.items():
        mine = both.get(key)
        both[key] = _over(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return both
