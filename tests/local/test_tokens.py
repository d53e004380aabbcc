"""The tokens of transformers through the whole system: every family, many at once, while loading and re-forming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import FAMILIES
from local.reference import Reference
from local.system import chat, function, running, write

Tiny = Callable[[str], Path]

PROMPTS = [
    "A mill",
    "The river runs past the old mill and on to the sea, and nobody knows how long it has done so. " * 3,
    "One two three four five six seven",
    "def turbine(flow, head):\n    return",
]


def several(number: int) -> list[tuple[str, int]]:
    """(prompt, max_tokens), of mixed lengths."""
    return [(f"{PROMPTS[index % len(PROMPTS)]} {index}", 4 + 3 * (index % 5)) for index in range(number)]


async def test_six_families_take_turns_on_four_workers(tmp_path: Path, tiny: Tiny) -> None:
    """Sixteen concurrent requests of mixed lengths to each, cold; again while pipelines re-form; again when warm."""
    references = {family: Reference(tiny(family)) for family in FAMILIES}
    bodies = [function(family.replace("_", "-"), tiny(family)) for family in FAMILIES]
    file = write(tmp_path / "functions.yaml", *bodies)
    with running(tmp_path / "state", [file], workers=4, link_rate="400kB/s") as system:
        await system.ready(4, functions=len(FAMILIES))
        async with system.client() as client:

            async def one(family: str, prompt: str, tokens: int) -> None:
                made = await client.completions.create(
                    model=family.replace("_", "-"), prompt=prompt, max_tokens=tokens, temperature=0
                )
                references[family].check(made.choices[0].text, prompt, tokens, chat=False)

            for family in FAMILIES:
                await asyncio.gather(*(one(family, *request) for request in several(16)))
            seen = await system.look()
            assert {start["name"] for start in seen["coldStarts"]} == {body["metadata"]["name"] for body in bodies}
            assert any(len(start["stages"]) > 1 for start in seen["coldStarts"]), "some were pipelines"
            for family in FAMILIES:
                await asyncio.gather(*(one(family, *request) for request in several(8)))
    # Tiny random models are full of near-ties; each was counted where it happened.
    assert all(reference.compared == 24 for reference in references.values())


async def test_many_requests_across_reforming(tmp_path: Path, smollm2: Path, real: Reference) -> None:
    """Requests arrive all the while from the first unit to the last: four stages, then fewer, then one."""
    file = write(tmp_path / "functions.yaml", function("smollm2", smollm2))
    with running(tmp_path / "state", [file], workers=4, link_rate="40MB/s") as system:
        await system.ready(4)
        stages: set[int] = set()
        answers: list[tuple[str, str]] = []
        done = asyncio.Event()

        async def watch() -> None:
            def note(seen: dict[str, Any]) -> bool:
                stages.update(len(item["stages"]) for item in seen["pipelines"] if item["phase"] == "Formed")
                return any(len(item["stages"]) == 1 for item in seen["pipelines"])

            await system.until(note, "a worker that serves alone")
            done.set()

        async def keep_asking(number: int) -> None:
            async with system.client() as client:
                while not done.is_set():
                    prompt = f"{PROMPTS[number % len(PROMPTS)]} {len(answers)}"
                    answers.append((prompt, await chat(client, "smollm2", prompt, max_tokens=12)))

        await asyncio.gather(watch(), *(keep_asking(number) for number in range(4)))
    assert 4 in stages
    assert 1 in stages
    assert len(answers) >= 8
    # Only now: the reference computes on the cores that the workers answered with.
    for prompt, answer in answers:
        real.check(answer, prompt, 12, chat=True)


async def test_seeded_sampling_is_the_same_however_many_stages(tmp_path: Path, smollm2: Path) -> None:
    bodies = [
        function("one", smollm2, loading={"maxStages": 1}),
        function("four", smollm2, loading={"maxStages": 4}, model={"dtype": "float32"}),
    ]
    texts: dict[str, list[str]] = {}
    for body in bodies:
        name = body["metadata"]["name"]
        file = write(tmp_path / f"{name}.yaml", body)
        workers = 1 if name == "one" else 4
        more = () if name == "one" else ("--device-memory", "330MB")
        with running(tmp_path / f"state-{name}", [file], workers=workers, link_rate="400MB/s", more=more) as system:
            await system.ready(workers)
            async with system.client() as client:
                made = await client.completions.create(
                    model=name, prompt="Once upon a time", max_tokens=24, temperature=0.9, top_p=0.95, seed=11, n=3
                )
            texts[name] = [choice.text for choice in made.choices]
    assert texts["one"] == texts["four"]
    assert len(set(texts["one"])) > 1, "choices differ from each other"
