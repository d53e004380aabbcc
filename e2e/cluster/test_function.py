"""A function's life: applied, called from zero, shared, pinned, corrected, changed, deleted; with the real model."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest
from cluster.installed import Installed, answered
from cluster.kube import PATIENCE
from cluster.watching import placements, states
from testbed import release
from testbed.cluster import Cluster

from checkpoints import real_smollm2
from cluster import kube, metrics
from local.system import chat, pieces

if TYPE_CHECKING:
    from local.reference import Reference

PROMPT, TOKENS = "Why is the sky blue?", 24
OTHER, FEW = "Name a colour.", 8
LONG = "The history of the water wheel began"
KNOWN = {
    "Ready", "ModelResolved", "ResourcesAvailable", "Active", "Loaded", "ScalingActive", "Reconciling", "Stalled",
}  # fmt: skip


def scaling(grace: int = 600, minimum: int = 0) -> dict[str, int]:
    return {"minReplicas": minimum, "maxReplicas": 2, "scaleToZeroGracePeriodSeconds": grace}


@pytest.mark.timeout(600)
async def test_from_zero_and_back(forebay: Installed, real: Reference) -> None:
    real.answer(PROMPT, TOKENS, chat=True)  # it takes longer than the function idles below
    forebay.apply("smollm2", scaling=scaling(grace=4))
    body = forebay.ready("smollm2")
    assert {condition["type"] for condition in body["status"]["conditions"]} == KNOWN
    assert (kube.condition(body, "Active"), kube.reason(body, "Active")) == ("False", "NoTraffic")
    if not forebay.base:
        assert body["status"]["url"] == f"http://forebay-gateway.{forebay.namespace}.svc.cluster.local/default/smollm2"
    with states("smollm2", forebay.home) as watched, placements("smollm2", forebay.home) as placed:
        watched.until("Idle")
        async with forebay.client("smollm2") as client:
            answers = await asyncio.gather(*(chat(client, "smollm2", PROMPT, max_tokens=TOKENS) for _ in range(3)))
        for answer in answers:
            real.check(answer, PROMPT, TOKENS, chat=True)
        watched.until("Serving")
        watched.until("Idle")
    assert set(watched.lines) & {"Loading", "Pipelined"}, f"it was never seen loading: {watched.lines}"
    if not forebay.base:  # a worker on each of two nodes
        assert any(spans(line, {"node1", "node2"}) for line in placed.seen()), (
            f"no pipeline was on both: {placed.lines}"
        )
    body = forebay.look("smollm2")
    assert (body["status"]["readyReplicas"], body["status"]["desiredReplicas"]) == (0, 0)
    async with forebay.client("smollm2") as client:  # and once more
        real.check(await chat(client, "smollm2", OTHER, max_tokens=FEW), OTHER, FEW, chat=True)


def spans(line: str, nodes: set[str]) -> bool:
    """Whether a pipeline of a line of `placements` lies on all of these nodes."""
    epochs, places = (words.split(",") for words in line.split())
    stages = list(zip(epochs, places, strict=True))
    return any({node for epoch, node in stages if epoch == one} >= nodes for one in epochs)


async def test_two_functions_share_the_pool(forebay: Installed, real: Reference) -> None:
    for name in ("first", "second"):
        forebay.apply(name)
    for name in ("first", "second"):
        forebay.ready(name)

    async def ask(name: str, prompt: str, tokens: int) -> None:
        async with forebay.client(name) as client:
            real.check(await chat(client, name, prompt, max_tokens=tokens), prompt, tokens, chat=True)

    await asyncio.gather(ask("first", PROMPT, TOKENS), ask("second", OTHER, FEW))


async def test_scale_pins_and_delete_frees(forebay: Installed, real: Reference) -> None:
    forebay.apply("pinned")
    forebay.ready("pinned")
    kube.kubectl("scale", "llmfn/pinned", "-n", forebay.home, "--replicas=2")
    kube.until(
        lambda: forebay.look("pinned"), lambda body: body["status"]["readyReplicas"] == 2, "both workers have it all"
    )
    async with forebay.client("pinned") as client:
        real.check(await chat(client, "pinned", OTHER, max_tokens=FEW), OTHER, FEW, chat=True)
        kube.kubectl("scale", "llmfn/pinned", "-n", forebay.home, "--replicas=0")
        kube.until(lambda: forebay.look("pinned"), lambda body: body["status"]["readyReplicas"] == 0, "pinned to zero")
        with pytest.raises(openai.InternalServerError) as refused:
            await chat(client, "pinned", OTHER, max_tokens=FEW)
        assert refused.value.status_code == 503
    url = forebay.url("pinned")
    forebay.remove("pinned")
    kube.until(lambda: answered(f"{url}/v1/models/pinned"), lambda status: status == 404, "it is unknown")


async def test_a_wrong_uri_stalls_and_a_right_one_recovers(forebay: Installed, real: Reference) -> None:
    before = inspections(forebay)
    forebay.apply("mistaken", model={"uri": "file:///cache/models/nowhere"})
    body = kube.until(
        lambda: forebay.look("mistaken"),
        lambda body: kube.condition(body, "Stalled") == "True",
        "it says what is wrong",
    )
    assert kube.reason(body, "Stalled") == "ArtifactNotFound"
    assert forebay.base or inspections(forebay) == before + 1, "one look at it is enough"
    assert kube.condition(body, "Ready") == "False"
    forebay.apply("mistaken")
    body = forebay.ready("mistaken")
    assert kube.condition(body, "Stalled") == "False"
    async with forebay.client("mistaken") as client:
        real.check(await chat(client, "mistaken", OTHER, max_tokens=FEW), OTHER, FEW, chat=True)


def inspections(forebay: Installed) -> float:
    """Those that found no artifact; 0 where pods cannot be asked."""
    pods = () if forebay.base else forebay.pods("operator")
    found = [metrics.of(pod, metrics.OPERATOR, "forebay_inspections_total", reason="ArtifactNotFound") for pod in pods]
    return sum(sum(series.values()) for series in found)


@pytest.fixture
def elsewhere(bed: Cluster, tmp_path: Path) -> str:
    """Uri of the same weights in another folder of the nodes' caches. Their files are of another time: those of one
    time are the same model wherever they lie, and nothing would be loaded."""
    moved = shutil.copytree(real_smollm2(), tmp_path / "moved", copy_function=shutil.copyfile)
    uri = release.put_model(bed, moved)
    shutil.rmtree(moved)
    return uri


async def test_a_changed_uri_is_served_without_a_gap(forebay: Installed, real: Reference, elsewhere: str) -> None:
    """To another folder with the same weights: other holdings of the same tokens. Every call on the way is answered."""
    real.answer(OTHER, FEW, chat=True)
    forebay.apply("moving")
    forebay.ready("moving")
    stop, answers = asyncio.Event(), list[str]()

    async def keep_asking() -> None:
        async with forebay.client("moving") as client:
            while not stop.is_set():
                answers.append(await chat(client, "moving", OTHER, max_tokens=FEW))

    asking = asyncio.create_task(keep_asking())
    try:
        await asyncio.to_thread(forebay.state, "moving", "Serving")
        before = forebay.look("moving")
        forebay.apply("moving", model={"uri": elsewhere})
        await asyncio.to_thread(
            kube.until,
            lambda: forebay.look("moving"),
            lambda body: (
                body["status"]["observedGeneration"] > before["metadata"]["generation"]
                and kube.condition(body, "Ready") == "True"
                and kube.condition(body, "Reconciling") == "False"
                and body["status"]["state"] == "Serving"
                and body["status"]["model"]["backbone"] != before["status"]["model"]["backbone"]
            ),
            "it is served from the other folder",
        )
        served = len(answers)
        async with asyncio.timeout(PATIENCE):
            while len(answers) < served + 2 and not asking.done():  # the first may have begun before
                await asyncio.sleep(0.1)
    finally:
        stop.set()
        await asking
    for answer in answers:
        real.check(answer, OTHER, FEW, chat=True)


async def test_a_stream_comes_in_pieces(forebay: Installed, real: Reference) -> None:
    forebay.apply("streamed")
    forebay.ready("streamed")
    async with forebay.client("streamed") as client:
        got = [piece async for piece in pieces(client, "streamed", LONG, max_tokens=TOKENS)]
    real.check("".join(got), LONG, TOKENS, chat=False)
    assert len(got) > TOKENS // 2
