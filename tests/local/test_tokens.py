"""The tokens of transformers through the whole system: every family, many at once, cold and warm, in turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from checkpoints import FAMILIES, tiny_model
from forebay_cli import view
from local.reference import PROMPTS, Reference
from local.system import System, function, running, write

Tiny = Callable[[str], Path]


def several(number: int) -> list[tuple[str, int]]:
    """(prompt, max_tokens), of mixed lengths."""
    return [(f"{PROMPTS[index % len(PROMPTS)]} {index}", 4 + 3 * (index % 5)) for index in range(number)]


async def test_six_families_take_turns_on_four_workers(tmp_path: Path, tiny: Tiny) -> None:
    """Sixteen concurrent requests of mixed lengths to each, cold, and eight more once each has been served."""
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


async def test_who_was_asked_least_recently_makes_room(tmp_path: Path) -> None:
    """One device that has room for two of three models, and for what their requests need."""
    names = ("first", "second", "third")
    folders = {name: tiny_model("llama", tmp_path / name, seed=seed) for seed, name in enumerate(names)}
    references = {name: Reference(folder) for name, folder in folders.items()}
    memory = int(3.4 * (folders["first"] / "model.safetensors").stat().st_size)
    bodies = [function(name, folder, model={"maxModelLen": 128}) for name, folder in folders.items()]
    file = write(tmp_path / "functions.yaml", *bodies)
    more = ("--device-memory", f"{memory // 1000}kB")
    with running(tmp_path / "state", [file], workers=1, link_rate="4MB/s", more=more) as system:
        named = {item["backbone"]: item["name"] for item in (await system.ready(1, functions=3))["functions"]}
        watching = asyncio.create_task(most_memory(system))
        async with system.client() as client:

            async def ask(name: str, *held: str) -> None:
                """The right tokens, and then these functions' models are held, whole, and nothing else."""
                made = await client.completions.create(model=name, prompt=PROMPTS[0], max_tokens=12, temperature=0)
                references[name].check(made.choices[0].text, PROMPTS[0], 12, chat=False)
                await system.until(
                    lambda seen: (
                        {named[backbone]: len(units) for backbone, units in seen["workers"][0]["holds"].items()}
                        == dict.fromkeys(held, 6)
                    ),
                    f"{held} after {name}",
                )

            await ask("first", "first")
            await ask("second", "first", "second")
            await ask("first", "first", "second")
            await ask("third", "first", "third")
            await ask("second", "second", "third")
        watching.cancel()
        assert 0 < await watching <= memory


async def most_memory(system: System) -> int:
    """Bytes on the one device at any time until it is cancelled."""
    most = 0
    with contextlib.suppress(asyncio.CancelledError):
        async for seen in view.watch(system.state.operator()):
            for worker in seen["workers"]:
                most = max(most, worker["residentBytes"] + worker["kvReservedBytes"])
    return most
