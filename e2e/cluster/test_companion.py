"""`forebay` beside kubectl: the same commands as in local mode, with a context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster.companion import says, workers
from cluster.installed import Installed
from testbed.cluster import Cluster

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
