"""The tokens of transformers through the whole system: every family, many at once, cold and warm."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from checkpoints import FAMILIES
from local.reference import PROMPTS, Reference
from local.system import function, running, write

Tiny = Callable[[str], Path]


def several(number: int) -> list[tuple[str, int]]:
    """(prompt, max_tokens), of mixed lengths."""
    return [(f"{PROMPTS[index % len(PROMPTS)]} {index}", 4 + 3 * (index % 5)) for index in range(number)]


async def test_six_families_take_turns_on_four_workers(tmp_path: Path, tiny: Tiny) -> None:
    """Sixteen concurrent requests of mixed lengths to each, cold; again while pipelines re-form; again when warm."""
    references = {family: Reference(tiny(family)) for family in FAMILIES}
    checked = Counter[str]()
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
                checked[family] += 1

            for family in FAMILIES:
                await asyncio.gather(*(one(family, *request) for request in several(16)))
            seen = await system.look()
            assert {start["name"] for start in seen["coldStarts"]} == {body["metadata"]["name"] for body in bodies}
            assert any(len(start["stages"]) > 1 for start in seen["coldStarts"]), "some were pipelines"
            for family in FAMILIES:
                await asyncio.gather(*(one(family, *request) for request in several(8)))
    assert checked == dict.fromkeys(FAMILIES, 24)
