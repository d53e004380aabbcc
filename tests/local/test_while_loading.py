"""While units land: a page in a real browser shows it, requests are answered across every re-forming, and whoever dies
is made good."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local import browser, deaths
from local.reference import PROMPTS, Reference
from local.system import System, chat, function, running, write

QUESTION = "Why is the sky blue?"

ASK = """
document.querySelector('#prompt').value = %r;
document.querySelector('#send').click();
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    return write(tmp_path_factory.mktemp("slow") / "functions.yaml", function("smollm2", smollm2))


@pytest.fixture(scope="module")
def slow(file: Path) -> Iterator[System]:
    """It takes eleven seconds until one worker has all there is."""
    with running(file.parent / "state", [file], workers=4, link_rate="50MB/s") as system:
        yield system


@pytest.fixture
async def system(slow: System, file: Path) -> System:
    """Nothing is held yet."""
    await slow.ready(4)
    await slow.to_zero(file)
    return slow


@pytest.mark.skipif(browser.executable() is None, reason="no Chromium: install Debian's package chromium")
async def test_asking_from_the_page(system: System, tmp_path: Path) -> None:
    async with browser.page(f"{system.url}/ui", tmp_path / "profile") as page:
        await page.until("document.querySelectorAll('#fleet .name').length === 4")
        await page.until("document.querySelector('#functions').innerText.includes('smollm2')")
        await page.until("document.querySelector('#which').value !== ''")
        assert await page.value("document.querySelectorAll('#fleet .resident').length") == 0
        await page.value(ASK % QUESTION)
        # Units fill and the pipeline is drawn while the answer is still waited for.
        await page.until("document.querySelectorAll('#fleet .loading').length > 0")
        await page.until("document.querySelectorAll('#fleet path.path').length > 0")
        await page.until("!document.querySelector('#phase').hidden && document.querySelector('#phase').innerText")
        await page.picture(tmp_path / "loading.png")
        await page.until("document.querySelector('#answer').innerText.length > 20")
        await page.until("document.querySelectorAll('#cold .first, #cold line').length > 0")
        await page.picture(tmp_path / "answered.png")
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await page.value(wide), "nothing is cut off at 1280 pixels"
        assert page.errors == []


async def test_many_requests_across_reforming(system: System, real: Reference) -> None:
    """Sixteen at a time, all the while from the first unit to the last: four stages, then fewer, then one."""
    stages: set[int] = set()
    answers: list[tuple[str, str]] = []
    done = asyncio.Event()
    number = itertools.count()

    async def watch() -> None:
        def note(seen: dict[str, Any]) -> bool:
            stages.update(len(item["stages"]) for item in seen["pipelines"] if item["phase"] == "Formed")
            return any(len(item["stages"]) == 1 for item in seen["pipelines"])

        await system.until(note, "a worker that serves alone")
        done.set()

    async def keep_asking() -> None:
        async with system.client() as client:
            while not done.is_set():
                turn = next(number) % 16
                prompt = f"{PROMPTS[turn % len(PROMPTS)]} {turn}"
                answers.append((prompt, await chat(client, "smollm2", prompt, max_tokens=12)))

    await asyncio.gather(watch(), *(keep_asking() for _ in range(16)))
    assert 4 in stages
    assert 1 in stages
    assert len(answers) >= 16
    # Only now: the reference computes on the cores that the workers answered with.
    for prompt, answer in answers:
        real.check(answer, prompt, 12, chat=True)


@pytest.mark.parametrize("victims", [[0], [3], [1, 2]])
async def test_killed_while_loading(system: System, real: Reference, victims: list[int]) -> None:
    def four_load(seen: dict[str, Any]) -> bool:
        return len(deaths.stage_workers(seen)) == 4 and any(worker["loading"] for worker in seen["workers"])

    asking = asyncio.create_task(deaths.ask(system, asyncio.Event(), 1))
    seen = await system.until(four_load, "a pipeline of four that loads")
    chosen = deaths.stage_workers(seen)
    dead = deaths.kill(seen, [chosen[number] for number in victims])
    real.check(await asking, deaths.PROMPT, deaths.TOKENS, chat=False)
    await deaths.whole(system, 4, dead)
