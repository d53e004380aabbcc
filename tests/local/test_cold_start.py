"""From zero and back: a pipeline of loading workers answers the first request, the last units leave after idling."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.reference import Reference
from local.system import System, chat, function, running, write

PROMPT = "Why is the sky blue?"
TOKENS = 24


def spec(**scaling: Any) -> dict[str, Any]:
    return {"scaling": {"minReplicas": 0, "maxReplicas": 4, "scaleToZeroGracePeriodSeconds": 600, **scaling}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    return write(tmp_path_factory.mktemp("cold") / "functions.yaml", function("smollm2", smollm2, **spec()))


@pytest.fixture(scope="module")
def system(file: Path) -> Iterator[System]:
    """A test finds it as the one before left it: at zero."""
    with running(file.parent / "state", [file], workers=4, link_rate="50MB/s") as system:
        yield system


async def test_answers_while_loading_then_consolidates_then_returns_to_zero(
    system: System, file: Path, smollm2: Path, real: Reference
) -> None:
    seen = await system.ready(4)
    assert (seen["functions"][0]["state"], seen["functions"][0]["ready"]) == ("Idle", 0)
    assert all(not worker["holds"] and worker["bytesRead"] == 0 for worker in seen["workers"])

    async with system.client() as client:
        answers = await asyncio.gather(*(chat(client, "smollm2", PROMPT, max_tokens=TOKENS) for _ in range(3)))
    for answer in answers:
        real.check(answer, PROMPT, TOKENS, chat=True)

    def alone(seen: dict[str, Any]) -> bool:
        formed = [pipeline for pipeline in seen["pipelines"] if pipeline["phase"] == "Formed"]
        return len(seen["pipelines"]) == 1 and len(formed) == 1 and len(formed[0]["stages"]) == 1

    seen = await system.until(lambda seen: bool(seen["coldStarts"]) and alone(seen), "one worker serves alone")
    cold = seen["coldStarts"][0]
    assert len(seen["coldStarts"]) == 1, "three first requests cause one cold start"
    assert len(cold["stages"]) == 4
    assert sorted(unit for stage in cold["stages"] for unit in range(stage["first"], stage["last"] + 1)) == list(
        range(32)
    )
    landed = [unit["landedAt"] for unit in cold["units"] if unit["landedAt"] is not None]
    assert cold["firstTokenAt"] < max(landed), "tokens come while units are still landing"

    model = next(item for item in seen["models"])
    for worker in seen["workers"]:
        assert worker["bytesRead"] <= model["totalBytes"], f"{worker['name']} read a unit twice"
    # Links of one rate: a second worker may have its last unit in hand when the first is full.
    seen = await system.until(
        lambda seen: sum(bool(worker["holds"]) for worker in seen["workers"]) == 1, "the others are released"
    )
    full = [worker for worker in seen["workers"] if set(*worker["holds"].values()) == set(range(32))]
    assert len(full) == 1, "as many full workers as replicas are wanted"

    async with system.client() as client:
        real.check(await chat(client, "smollm2", "Name a colour.", max_tokens=8), "Name a colour.", 8, chat=True)
    assert len((await system.look())["coldStarts"]) == 1, "it was kept"

    write(file, function("smollm2", smollm2, **spec(scaleToZeroGracePeriodSeconds=1)))
    seen = await system.until(
        lambda seen: (
            not seen["pipelines"]
            and all(not worker["holds"] and worker["residentBytes"] == 0 for worker in seen["workers"])
        ),
        "the units leave after the idle time",
    )
    assert (seen["functions"][0]["state"], seen["functions"][0]["desired"]) == ("Idle", 0)
    assert all(worker["kvReservedBytes"] == 0 for worker in seen["workers"])


async def test_all_replicas_wanted_means_every_byte_once_per_holder(system: System, file: Path, smollm2: Path) -> None:
    before = {worker["name"]: worker["bytesRead"] for worker in (await system.ready(4))["workers"]}
    write(file, function("smollm2", smollm2, **spec(minReplicas=4)))
    seen = await system.until(
        lambda seen: (
            [len(pipeline["stages"]) for pipeline in seen["pipelines"]] == [1] * 4
            and seen["functions"][0]["ready"] == 4
        ),
        "four full replicas",
    )
    total = seen["models"][0]["totalBytes"]
    assert [worker["bytesRead"] - before[worker["name"]] for worker in seen["workers"]] == [total] * 4
