"""The pod of one worker, as the API server is to have it: what pool and settings say, and what keeps it restricted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from forebay_api import names
from forebay_api.frozen import thaw
from forebay_api.pool import Cache, Pool
from forebay_api.quantities import parse_size
from forebay_operator.cluster.template import TEMPLATE_ANNOTATION, PodSettings, digest, labels
from forebay_operator.decide.pool_names import claim_name, node_label, pod_name

Json = dict[str, Any]

CONTAINER = "worker"
USER = 65532
METRICS_PORT = 9090

CACHE_SHARE = 0.9
"""Of a cache's size, for models: a file system takes some itself, and a pod whose emptyDir exceeds its limit is
evicted."""

DRAIN_MARGIN = 5
"""Seconds of the grace period that are left to a worker for ending itself after the last request."""

AWAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""Taints of a node that does not answer. Its pods are kept: they may serve on, and are adopted when it is back."""

NVIDIA = "nvidia.com/"
"""Resources with which a worker must have CUDA: one that sees no card, for want of a runtime class say, would else
compute on the processor and be taken for a slow one."""

EFFECTS = ("NoSchedule", "NoExecute")
"""Of taints that keep pods away; a toleration without an effect is of both."""

METRICS_PROBE: Json = {"httpGet": {"path": "/metrics", "port": "metrics"}}
"""gRPC asks for a client's certificate, which the kubelet has not."""

STARTUP_SECONDS = 600
"""Eight workers that import torch at once on a small machine take two minutes."""


def owner(pool: Pool) -> Json:
    """A pool takes its pods and claims along when it goes."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.POOL_KIND,
        "name": pool.name,
        "uid": pool.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def make_pod(pool: Pool, node: str, index: int, settings: PodSettings) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(pool.name, node, index),
            "namespace": settings.namespace,
            "labels": {**pool.spec.pod_labels, **labels(settings, pool.name, node_label(node))},
            "annotations": {**pool.spec.pod_annotations, TEMPLATE_ANNOTATION: template(pool, settings)},
            "ownerReferences": [owner(pool)],
        },
        "spec": _spec(pool, node, settings),
    }


def template(pool: Pool, settings: PodSettings) -> str:
    """Hash of what all pods of ``pool`` are to be; one that carries another is replaced."""
    metadata = {"labels": dict(pool.spec.pod_labels), "annotations": dict(pool.spec.pod_annotations)}
    return digest({"metadata": metadata, "spec": _spec(pool, "", settings)})


def node_of(body: Mapping[str, Any]) -> str:
    """The node that a pod of ours was made for."""
    affinity = body.get("spec", {}).get("affinity") or {}
    required = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return str(body.get("spec", {}).get("nodeName") or "")


def tolerations(pool: Pool) -> list[Json]:
    """The pool's, that of the taint by which clouds keep other pods off nodes with devices, and those that keep pods on
    a node that does not answer; where the pool speaks of a taint itself, only the pool's."""
    given = [cast("Json", thaw(toleration)) for toleration in pool.spec.tolerations]
    spoken = {(toleration.get("key"), toleration.get("effect") or every) for toleration in given for every in EFFECTS}
    ours = [(pool.spec.resource_name, "NoSchedule"), *((key, "NoExecute") for key in AWAY)]
    return given + [
        {"key": key, "operator": "Exists", "effect": effect} for key, effect in ours if (key, effect) not in spoken
    ]


def _spec(pool: Pool, node: str, settings: PodSettings) -> Json:
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": pool.spec.termination_grace_period_seconds,
        "securityContext": _security(pool),
        "affinity": _affinity(node),
        "tolerations": tolerations(pool),
        "containers": [_container(pool, settings)],
        "volumes": _volumes(pool, node, settings),
    }
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    for key, value in (
        ("serviceAccountName", pool.spec.service_account_name),
        ("runtimeClassName", pool.spec.runtime_class_name),
        ("priorityClassName", pool.spec.priority_class_name),
    ):
        if value is not None:
            spec[key] = value
    return spec


def _security(pool: Pool) -> Json:
    """Ours with the pool's over it; some clusters give users and groups out themselves."""
    ours = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    given = {name: thaw(value) for name, value in pool.spec.pod_security_context.items()}
    return {name: value for name, value in {**ours, **given}.items() if value is not None}


def _affinity(node: str) -> Json:
    """By name, and through the scheduler: it alone knows whether a device is free."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _container(pool: Pool, settings: PodSettings) -> Json:
    spec = pool.spec
    return {
        "name": CONTAINER,
        "image": spec.image or settings.image,
        "imagePullPolicy": str(spec.image_pull_policy or settings.pull_policy),
        "command": ["python", "-m", "forebay_worker", "serve", "--count", "1"],
        "args": list(spec.args),
        "env": _merged(_env(pool, settings), _thawed(spec.env), "name"),
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "resources": {
            "limits": {**spec.resources.limits, spec.resource_name: "1"},
            "requests": {**spec.resources.asked, spec.resource_name: "1"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "startupProbe": {**METRICS_PROBE, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": STARTUP_SECONDS},
        "readinessProbe": {**METRICS_PROBE, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        # A minute and a half of silence: a busy core is slow to answer, and what hangs is known by its heartbeat first.
        "livenessProbe": {**METRICS_PROBE, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6},
        "volumeMounts": _merged(_mounts(), _thawed(spec.volume_mounts), "mountPath"),
    }


def _env(pool: Pool, settings: PodSettings) -> list[Json]:
    grace = pool.spec.termination_grace_period_seconds
    told = {
        "FOREBAY_OPERATOR": settings.operator,
        "FOREBAY_TLS": "/etc/forebay/tls",
        "FOREBAY_RELEASE": settings.release,
        "FOREBAY_STATE": "/tmp/forebay",
        "FOREBAY_CACHE": "/cache",
        "FOREBAY_METRICS_PORT": str(METRICS_PORT),
        "FOREBAY_DRAIN_SECONDS": str(max(1, grace - DRAIN_MARGIN)),
        "HOME": "/tmp",
    }
    if pool.spec.resource_name.startswith(NVIDIA):
        told["FOREBAY_DEVICE"] = "cuda"
    if _shared(pool.spec.cache):
        told["FOREBAY_SOCKETS"] = "/cache/sockets"
    if size := _cache_size(pool.spec.cache):
        told["FOREBAY_CACHE_BYTES"] = str(int(parse_size(size) * CACHE_SHARE))
    fields = {
        "FOREBAY_NODE": "spec.nodeName",
        "FOREBAY_NAME": "metadata.name",
        "FOREBAY_POD_UID": "metadata.uid",
        "FOREBAY_LISTEN": "status.podIP",
    }
    return [{"name": name, "value": value} for name, value in told.items()] + [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in fields.items()
    ]


def _shared(cache: Cache | None) -> bool:
    """Whether the workers of a node meet in their cache."""
    return cache is not None and cache.empty_dir is None


def _cache_size(cache: Cache | None) -> str | None:
    """None: nobody said, and the worker looks at the disk."""
    if cache is None:
        return None
    if cache.claim_template is not None:
        return cache.claim_template.size
    return cache.empty_dir.size_limit if cache.empty_dir else None


def _volumes(pool: Pool, node: str, settings: PodSettings) -> list[Json]:
    ours = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pool.spec.shm_size}},
        {"name": "tls", "secret": {"secretName": settings.worker_secret, "defaultMode": 0o440}},
        {"name": "cache", **_cache(pool, node)},
    ]
    return _merged(ours, _thawed(pool.spec.volumes), "name")


def _cache(pool: Pool, node: str) -> Json:
    cache = pool.spec.cache or Cache()
    if cache.claim_template is not None:
        return {"persistentVolumeClaim": {"claimName": claim_name(pool.name, node)}}
    if cache.host_path is not None:
        # One that the kubelet makes belongs to root, and no worker could write there.
        return {"hostPath": {"path": cache.host_path.path, "type": "Directory"}}
    limit = cache.empty_dir.size_limit if cache.empty_dir else None
    return {"emptyDir": {"sizeLimit": limit} if limit else {}}


def _mounts() -> list[Json]:
    return [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tls", "mountPath": "/etc/forebay/tls", "readOnly": True},
        {"name": "cache", "mountPath": "/cache"},
    ]


def _thawed(pieces: Iterable[object]) -> list[Json]:
    return [cast("Json", thaw(piece)) for piece in pieces]


def _merged(ours: list[Json], theirs: list[Json], key: str) -> list[Json]:
    """What a person says replaces ours of the same ``key`` in its place: the API server takes no key twice."""
    replaced = {piece[key]: piece for piece in theirs}
    known = {piece[key] for piece in ours}
    return [replaced.get(piece[key], piece) for piece in ours] + [piece for piece in theirs if piece[key] not in known]
