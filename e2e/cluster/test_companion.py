"""`forebay` beside kubectl: the same commands as in local mode, with a context."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cluster.installed import Installed
from testbed.cluster import Cluster
from testbed.shell import run

FOREBAY = Path(sys.prefix) / "bin" / "forebay"
CONTEXT = "--kube-context=testbed"
PROMPT, TOKENS = "Name a colour.", 8


def forebay_says(*words: object) -> str:
    return run(FOREBAY, *words, CONTEXT, limit=120)


@pytest.mark.timeout(300)
def test_get_invoke_timeline(bed: Cluster, forebay: Installed, tmp_path: Path) -> None:
    forebay.apply("spoken")
    forebay.ready("spoken")
    assert forebay_says("invoke", "spoken", PROMPT, "--max-tokens", TOKENS).strip()
    functions = json.loads(forebay_says("get", "functions", "-o", "json"))
    assert "spoken" in json.dumps(functions)
    workers = forebay_says("get", "workers")
    assert all(pod["metadata"]["name"] in workers for pod in forebay.pods("worker"))
    trace = tmp_path / "trace.json"
    forebay_says("timeline", "spoken", "-o", trace)
    assert json.loads(trace.read_text())
