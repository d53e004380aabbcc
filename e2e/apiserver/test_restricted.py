"""Every pod of ours is let into a namespace that enforces the restricted standard: the API server itself is asked."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Mapping
from typing import Any

import plane
import pytest

from chart.rendering import Rendered, render
from cluster_pools.store import pool_body
from forebay_api.pool import Pool
from forebay_operator.cluster.pods import make_pod
from forebay_operator.cluster.template import PodSettings

NAMESPACE = "restricted"
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}
SETTINGS = PodSettings(NAMESPACE, "forebay", "forebay-operator.restricted.svc:9443", "worker:1", pull_secrets=("reg",))
HELM = plane.BINARIES / "helm"
Body = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not plane.available() or not HELM.exists(), reason="no kube-apiserver or helm: `make testbed`"
)


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[plane.Plane]:
    with plane.running(tmp_path_factory.mktemp("plane")) as api:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": ENFORCED}}
        api.request("POST", "/api/v1/namespaces", namespace)
        yield api


def objection(api: plane.Plane, name: str, template: Mapping[str, Any]) -> str:
    """What the API server has against such a pod; empty: nothing."""
    metadata = {**template.get("metadata", {}), "name": name, "namespace": NAMESPACE}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    try:
        api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", pod)
    except urllib.error.HTTPError as error:
        return "\n".join(error.__notes__)
    return ""


def worker(**spec: object) -> Body:
    body = pool_body(**spec)
    body["metadata"]["uid"] = "pool-uid"
    return make_pod(Pool.from_body(body), "node-1", 0, SETTINGS)


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_what_the_chart_deploys(restricted: plane.Plane, component: str) -> None:
    deployment = rendered().one("Deployment", f"forebay-{component}")
    assert objection(restricted, component, deployment["spec"]["template"]) == ""


def test_the_charts_own_test(restricted: plane.Plane) -> None:
    (test,) = rendered().of("Pod").values()
    assert objection(restricted, "test", test) == ""


def rendered() -> Rendered:
    return render(HELM)


WORKERS = [
    {},
    {"cache": {"emptyDir": {"sizeLimit": "1Gi"}}},
    {"cache": {"claimTemplate": {"size": "1Gi"}}},
    {"podSecurityContext": {"runAsUser": None, "fsGroup": 1000}},
]


@pytest.mark.parametrize("spec", WORKERS)
def test_workers(restricted: plane.Plane, spec: Body) -> None:
    assert objection(restricted, "worker", worker(**spec)) == ""


def test_it_is_enforced(restricted: plane.Plane) -> None:
    """Of what a pool may say, a folder of the node needs more, as its field says."""
    assert "violates PodSecurity" in objection(restricted, "worker", worker(cache={"hostPath": {"path": "/models"}}))
