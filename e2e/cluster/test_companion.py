"""`forebay` beside kubectl: the same commands as in local mode, with a context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster.companion import says, workers
from cluster.installed import Installed
from testbed.cluster import Cluster
from testbed.shell import Failed

from cluster import kube

PROMPT, TOKENS = "Name a colour.", 8


@pytest.mark.timeout(300)
def test_plan_get_invoke_timeline(bed: Cluster, forebay: Installed, tmp_path: Path) -> None:
    forebay.apply("spoken")
    forebay.ready("spoken")
    file = tmp_path / "spoken.yaml"
    file.write_text(json.dumps(forebay.function("spoken")))
    (planned,) = json.loads(says("plan", "-f", file, "-o", "json"))
    assert planned["predicted"]["firstToken"] > 0
    assert says("invoke", "spoken", PROMPT, "--max-tokens", TOKENS).strip()
    functions = json.loads(says("get", "functions", "-o", "json"))
    assert "spoken" in json.dumps(functions)
    named = says("get", "workers")
    assert all(pod["metadata"]["name"] in named for pod in forebay.pods("worker"))
    trace = tmp_path / "trace.json"
    says("timeline", "spoken", "-o", trace)
    assert json.loads(trace.read_text())


@pytest.mark.timeout(300)
def test_a_model_that_no_function_names_is_planned(bed: Cluster, forebay: Installed, tmp_path: Path) -> None:
    file = tmp_path / "unapplied.yaml"
    another_name = f"{forebay.uri}/"  # than other tests' functions use
    file.write_text(json.dumps(forebay.function("unapplied", model={"uri": another_name})))
    (planned,) = json.loads(says("plan", "-f", file, "-o", "json"))
    names = {pod["metadata"]["name"] for pod in forebay.pods("worker")}
    assert {stage["worker"] for stage in planned["stages"]} <= names
    assert planned["predicted"]["firstToken"] > 0
    file.write_text(json.dumps(forebay.function("unapplied", model={"uri": "file:///nowhere"})))
    with pytest.raises(Failed, match=r"unapplied: ArtifactNotFound: .*nowhere"):
        says("plan", "-f", file)
    file.write_text(json.dumps(forebay.function("unapplied", pool="nobodys")))
    with pytest.raises(Failed, match="no ready worker of pool nobodys is attached"):
        says("plan", "-f", file)
    assert "unapplied" not in [body["metadata"]["name"] for body in kube.listed("llmfn", forebay.home)]


@pytest.mark.timeout(300)
def test_a_function_that_is_deleted_frees_the_devices(bed: Cluster, forebay: Installed) -> None:
    forebay.apply("freed")
    forebay.ready("freed")
    assert says("invoke", "freed", PROMPT, "--max-tokens", TOKENS).strip()
    assert any(worker["residentBytes"] for worker in workers())
    forebay.remove("freed")
    kube.until(
        workers,
        lambda found: not any(worker["residentBytes"] or worker["holds"] for worker in found),
        "devices without units",
    )
