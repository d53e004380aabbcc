"""The claim that holds one node's cache of models and its workers' sockets.

It outlives every pod, so that a worker that comes back finds its models; it goes with its pool, since all of it can be
fetched again and an uninstalled release should leave nothing that costs money. Who wants a cache to outlive the pool
makes the claim by hand, under the same name and without an owner: it is used as it is.
"""

from __future__ import annotations

from typing import Any

from forebay_api.pool import Pool
from forebay_operator.cluster.pods import owner
from forebay_operator.cluster.template import PodSettings, labels
from forebay_operator.decide.pool_names import claim_name, node_label


def make_claim(pool: Pool, node: str, settings: PodSettings) -> dict[str, Any]:
    """Raises ValueError for a pool whose cache is no claim."""
    claim = pool.spec.cache.claim_template if pool.spec.cache else None
    if claim is None:
        raise ValueError(f"pool {pool.name}: spec.cache.claimTemplate is needed for a claim")
    spec: dict[str, Any] = {
        "accessModes": [str(mode) for mode in claim.access_modes],
        "resources": {"requests": {"storage": claim.size}},
    }
    if claim.storage_class_name is not None:
        spec["storageClassName"] = claim.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(pool.name, node),
            "namespace": settings.namespace,
            "labels": labels(settings, pool.name, node_label(node)),
            "ownerReferences": [owner(pool)],
        },
        "spec": spec,
    }
