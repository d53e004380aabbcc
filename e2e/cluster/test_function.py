"""A function's life: applied, called from zero, shared, pinned, corrected, changed, deleted; with the real model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest
from cluster.installed import Installed, answered
from cluster.watching import states

from cluster import kube
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
    with states("smollm2", forebay.home) as watched:
        watched.until("Idle")
        async with forebay.client("smollm2") as client:
            answers = await asyncio.gather(*(chat(client, "smollm2", PROMPT, max_tokens=TOKENS) for _ in range(3)))
        for answer in answers:
            real.check(answer, PROMPT, TOKENS, chat=True)
        watched.until("Serving")
        watched.until("Idle")
    assert set(watched.lines) & {"Loading", "Pipelined"}, f"it was never seen loading: {watched.lines}"
    body = forebay.look("smollm2")
    assert (body["status"]["readyReplicas"], body["status"]["desiredReplicas"]) == (0, 0)
    async with forebay.client("smollm2") as client:  # and once more
        real.check(await chat(client, "smollm2", OTHER, max_tokens=FEW), OTHER, FEW, chat=True)


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
    forebay.apply("mistaken", model={"uri": "file:///cache/models/nowhere"})
    body = kube.until(
        lambda: forebay.look("mistaken"),
        lambda body: kube.condition(body, "Stalled") == "True",
        "it says what is wrong",
    )
    assert kube.reason(body, "Stalled") == "ArtifactNotFound"
    assert kube.condition(body, "Ready") == "False"
    forebay.apply("mistaken")
    body = forebay.ready("mistaken")
    assert kube.condition(body, "Stalled") == "False"
    async with forebay.client("mistaken") as client:
        real.check(await chat(client, "mistaken", OTHER, max_tokens=FEW), OTHER, FEW, chat=True)


async def test_a_changed_uri_is_served_without_a_gap(forebay: Installed, real: Reference) -> None:
    """From 32-bit to 16-bit numbers and back: other holdings of the same model. Every call on the way is answered."""
    forebay.apply("moving", model={"dtype": "float32"})
    forebay.ready("moving")
    answers, stop = 0, asyncio.Event()

    async def keep_asking() -> None:
        nonlocal answers
        async with forebay.client("moving") as client:
            while not stop.is_set():
                assert await chat(client, "moving", OTHER, max_tokens=FEW)
                answers += 1

    asking = asyncio.create_task(keep_asking())
    try:
        await asyncio.to_thread(forebay.state, "moving", "Serving")
        before = forebay.look("moving")["metadata"]["generation"]
        forebay.apply("moving", model={"dtype": "bfloat16"})
        await asyncio.to_thread(
            kube.until,
            lambda: forebay.look("moving"),
            lambda body: (
                body["status"]["observedGeneration"] > before
                and kube.condition(body, "Ready") == "True"
                and kube.condition(body, "Reconciling") == "False"
                and body["status"]["state"] == "Serving"
            ),
            "it serves the new numbers",
        )
    finally:
        stop.set()
        await asking
    assert answers > 0


async def test_a_stream_comes_in_pieces(forebay: Installed, real: Reference) -> None:
    forebay.apply("streamed")
    forebay.ready("streamed")
    async with forebay.client("streamed") as client:
        got = [piece async for piece in pieces(client, "streamed", LONG, max_tokens=TOKENS)]
    real.check("".join(got), LONG, TOKENS, chat=False)
    assert len(got) > TOKENS // 2
