"""One worker answers, or the several that a model needs: with the same tokens, and whoever dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from local import deaths
from local.reference import Reference
from local.system import System, chat, function, running, write

MEMORY = 450_000_000
"""Bytes of a device: less than the model."""
PROMPT = "Why is the sky blue?"
TOKENS = 24


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[System]:
    """Loading through one bucket: more workers would be no faster."""
    folder = tmp_path_factory.mktemp("one")
    file = write(folder / "functions.yaml", function("smollm2", smollm2))
    with running(folder / "state", [file], workers=4, more=("--shared-link", "200MB/s")) as system:
        yield system


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[System]:
    """No device holds the whole model: it stays a pipeline, so that any stage can die while decoding."""
    folder = tmp_path_factory.mktemp("several")
    file = write(folder / "functions.yaml", function("smollm2", smollm2))
    more = ("--device-memory", f"{MEMORY // 10**6}MB")
    with running(folder / "state", [file], workers=4, link_rate="400MB/s", more=more) as system:
        yield system


async def sampled(system: System) -> list[str]:
    async with system.client() as client:
        made = await client.completions.create(
            model="smollm2", prompt="Once upon a time", max_tokens=24, temperature=0.9, top_p=0.95, seed=11, n=3
        )
    return [choice.text for choice in made.choices]


async def test_one_shared_bucket_gives_one_worker(one: System, real: Reference) -> None:
    await one.ready(4)
    async with one.client() as client:
        real.check(await chat(client, "smollm2", PROMPT, max_tokens=TOKENS), PROMPT, TOKENS, chat=True)
    cold = (await one.look())["coldStarts"][0]
    assert len(cold["stages"]) == 1


async def test_seeded_sampling_is_the_same_however_many_stages(one: System, several: System) -> None:
    await several.ready(4)
    texts = await sampled(several)  # while it loads, by four
    seen = await several.look()
    assert [len(start["stages"]) for start in seen["coldStarts"]] == [4]
    assert texts == await sampled(several)  # by as few as can hold it, or on the way there
    assert texts == await sampled(one)
    assert all(len(pipeline["stages"]) == 1 for pipeline in (await one.look())["pipelines"])
    assert len(set(texts)) > 1, "choices differ from each other"


async def test_a_model_larger_than_a_device_stays_a_pipeline(several: System, real: Reference) -> None:
    await several.ready(4)
    async with several.client() as client:
        real.check(await chat(client, "smollm2", PROMPT, max_tokens=TOKENS), PROMPT, TOKENS, chat=True)
    seen = await several.look()
    assert all(len(pipeline["stages"]) > 1 for pipeline in seen["pipelines"])
    assert all(worker["residentBytes"] + worker["kvReservedBytes"] <= MEMORY for worker in seen["workers"])


@pytest.mark.parametrize("victims", [slice(0, 1), slice(-1, None), slice(0, 2)], ids=["first", "head", "both"])
async def test_killed_while_decoding(several: System, real: Reference, victims: slice) -> None:
    await several.ready(4)
    begun = [asyncio.Event() for _ in range(3)]
    asking = [asyncio.create_task(deaths.ask(several, event, 8 + 4 * number)) for number, event in enumerate(begun)]
    await asyncio.gather(*(event.wait() for event in begun))
    seen = await several.until(deaths.stage_workers, "a pipeline that serves")
    dead = deaths.kill(seen, deaths.stage_workers(seen)[victims])
    for answer in await asyncio.gather(*asking):
        real.check(answer, deaths.PROMPT, deaths.TOKENS, chat=False)
    await deaths.whole(several, 4, dead)


async def test_told_to_end_while_decoding(several: System, real: Reference) -> None:
    """No other worker could have this pipeline's units: the answer is finished where it began."""
    await several.ready(4)
    before, begun = await continued(several), asyncio.Event()
    asking = asyncio.create_task(deaths.ask(several, begun, 8))
    await begun.wait()
    seen = await several.until(deaths.stage_workers, "a pipeline that serves")
    gone = deaths.kill(seen, deaths.stage_workers(seen)[:1], signal.SIGTERM)
    real.check(await asking, deaths.PROMPT, deaths.TOKENS, chat=False)
    assert await continued(several) == before
    await deaths.whole(several, 4, gone)


async def continued(system: System) -> float:
    """Answers that went on elsewhere, since the gateway began."""
    async with aiohttp.ClientSession() as http, http.get(f"{system.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("forebay_continuations_total{"))
