"""Somebody else says how many replicas: `kubectl scale` and a real HorizontalPodAutoscaler, by the subresource. From
zero to one stays ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from cluster.installed import Installed
from cluster.kube import Body

from cluster import kube
from local.system import chat

if TYPE_CHECKING:
    from local.reference import Reference

NAME = "external"
PROMPT, TOKENS = "Name a colour.", 8
SCALING = {"mode": "External", "scaleToZeroGracePeriodSeconds": 4}


@pytest.fixture
def autoscaled(forebay: Installed) -> Iterator[Installed]:
    """Nobody's autoscaler is left."""
    yield forebay
    kube.delete("hpa", NAME, forebay.home)


def autoscaler(namespace: str, least: int, most: int) -> Body:
    """By a metric that nobody serves: only its bounds say anything."""
    metric = {"metric": {"name": "nobody_serves_this"}, "target": {"type": "AverageValue", "averageValue": "1"}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "forebay.dev/v1alpha1", "kind": "LLMFunction", "name": NAME},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "External", "external": metric}],
        },
    }


def has(forebay: Installed, asked: int, ready: int) -> Body:
    """The function once so many are asked for and answer."""

    def numbers(body: Body) -> tuple[int, int]:
        return body["spec"]["replicas"], body["status"]["readyReplicas"]

    return kube.until(
        lambda: forebay.look(NAME), lambda body: numbers(body) == (asked, ready), f"{asked} asked for, {ready} ready"
    )


@pytest.mark.timeout(600)
async def test_another_autoscaler_scales_and_a_request_wakes(autoscaled: Installed, real: Reference) -> None:
    forebay = autoscaled
    real.answer(PROMPT, TOKENS, chat=True)
    missing = forebay.function(NAME, scaling=SCALING)
    assert "spec.replicas" in kube.refused("apply", "-f", "-", stdin=json.dumps(missing))
    forebay.apply(NAME, scaling=SCALING, replicas=1)
    forebay.ready(NAME)
    has(forebay, 1, 1)
    kube.kubectl("scale", f"llmfn/{NAME}", "-n", forebay.home, "--replicas=2")
    body = has(forebay, 2, 2)
    assert body["status"]["scaling"]["reason"] == "External"
    kube.apply(autoscaler(forebay.home, 1, 1))  # fewer
    has(forebay, 1, 1)
    able(forebay)
    kube.apply(autoscaler(forebay.home, 2, 2))  # more
    has(forebay, 2, 2)
    able(forebay)
    async with forebay.client(NAME) as client:
        real.check(await chat(client, NAME, PROMPT, max_tokens=TOKENS), PROMPT, TOKENS, chat=True)
        kube.kubectl("scale", f"llmfn/{NAME}", "-n", forebay.home, "--replicas=0")
        has(forebay, 0, 0)
        # At zero it looks on, and what a request brings is none of its business.
        kube.until(
            lambda: kube.get("hpa", NAME, forebay.home),
            lambda body: kube.reason(body, "ScalingActive") == "ScalingDisabled",
            "the autoscaler leaves it alone",
        )
        for _ in range(2):
            real.check(await chat(client, NAME, PROMPT, max_tokens=TOKENS), PROMPT, TOKENS, chat=True)
            has(forebay, 0, 0)
    assert kube.condition(forebay.look(NAME), "ScalingActive") == "True"


def able(forebay: Installed) -> None:
    """It reads and writes the subresource; that nobody serves its metric it says itself."""
    body = kube.until(
        lambda: kube.get("hpa", NAME, forebay.home),
        lambda body: kube.condition(body, "AbleToScale") == "True",
        "the autoscaler reaches the function",
    )
    assert body["status"]["currentReplicas"] > 0
