"""The chart as its users meet it: `helm test`, both helms, and `helm template` without helm in the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster.installed import Installed
from testbed import release
from testbed.cluster import Cluster
from testbed.shell import run

from cluster import kube


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Values without a pool, for a second release beside the first: their kinds are there already."""
    values = release.values(release.Settings(workers=0, values={"crds": {"install": False}}))
    path = tmp_path / "values.json"
    path.write_text(json.dumps(values))
    return path


def test_helm_test(bed: Cluster, forebay: Installed) -> None:
    said = run("helm", "test", forebay.name, "-n", forebay.namespace, "--timeout=90s", limit=120)
    assert "Succeeded" in said


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_both_helms_are_answered_well(bed: Cluster, forebay: Installed, file: Path, helm: str) -> None:
    install = (helm, "install", "second", release.CHART, "-n", "default", "--values", file, "--dry-run=server")
    assert "second-forebay-operator" in run(*install)


def test_a_template_can_be_applied_by_kubectl(bed: Cluster, forebay: Installed, file: Path) -> None:
    more = ("-n", "default", "--values", file, "--skip-tests")
    manifest = run("helm", "template", "second", release.CHART, *more)
    said = kube.kubectl("apply", "--server-side", "--dry-run=server", "-n", "default", "-f", "-", stdin=manifest)
    assert "deployment.apps/second-forebay-gateway serverside-applied" in said


def test_the_resources_explain_themselves(forebay: Installed) -> None:
    for path in ("llmfn.spec.model.uri", "llmfn.spec.scaling.minReplicas", "wpool.spec.nodeSelector"):
        description = kube.kubectl("explain", path).partition("DESCRIPTION:")[2].strip()
        assert len(description) > 20
        assert "<empty>" not in description


def test_short_names_and_categories(forebay: Installed) -> None:
    forebay.apply("listed")
    forebay.ready("listed")
    shown = kube.kubectl("get", "forebay", "-A")
    assert "llmfunction.forebay.dev/listed" in shown
    assert "workerpool.forebay.dev/default" in shown
    header = kube.kubectl("get", "llmfn", "-n", forebay.home).splitlines()[0].split()
    assert header == ["NAME", "URL", "MODEL", "STATE", "READY", "DESIRED", "REASON", "AGE"]
