"""What all pods of a pool have in common: what the operator was told about workers, and the hash by which a pod says
which template it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from forebay_api import names

POOL_LABEL = f"{names.GROUP}/pool"
NODE_LABEL = f"{names.GROUP}/node"
TEMPLATE_ANNOTATION = f"{names.GROUP}/template"

DIGEST = 16


@dataclass(frozen=True, slots=True)
class PodSettings:
    """``release``: the chart's full name, of which Secrets and labels are called. ``image``: of pools that name none,
    empty where there is no default. ``operator``: host:port that workers attach to."""

    namespace: str
    release: str
    operator: str
    image: str = ""
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()

    @property
    def worker_secret(self) -> str:
        return f"{self.release}-worker-tls"


def labels(settings: PodSettings, pool: str, node: str) -> dict[str, str]:
    """Of everything that is made for a pool on a node. ``node`` must be fit for a label."""
    return {
        "app.kubernetes.io/name": "forebay",
        "app.kubernetes.io/instance": settings.release,
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "forebay",
        "app.kubernetes.io/managed-by": "forebay-operator",
        POOL_LABEL: pool,
        NODE_LABEL: node,
    }


def digest(spec: Mapping[str, object]) -> str:
    """The same for the same ``spec``, whoever makes it and when: an operator that starts anew replaces no pod."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST]
