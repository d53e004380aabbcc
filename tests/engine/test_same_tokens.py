"""The same tokens as transformers generate, however many stages there are and whoever else is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import checkpoints
from engine.rig import SEEDED, Rig, greedy, idle, prompts, until
from engine_parts.reference import Expected, Reference, check

Tiny = Callable[[str], Path]
TOKENS = 12


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_alone_and_in_company(rig: Rig, tiny: Tiny, family: str, stages: int) -> None:
    folder = tiny(family)
    nodes, epoch = rig.pipeline(folder, stages)
    head = nodes[-1]
    alone, *company = prompts(folder, 17, seed=stages)
    assert rig.ask(head, epoch, alone, max_tokens=TOKENS).wait().tokens() == greedy(folder, alone, TOKENS)
    readers = [rig.ask(head, epoch, prompt, max_tokens=TOKENS + turn) for turn, prompt in enumerate(company)]
    for turn, reader in enumerate(readers):
        assert reader.wait().tokens() == greedy(folder, reader.request.prompt, TOKENS + turn)
        assert reader.finish() == "length"
    until(lambda: idle(head, epoch), "all blocks are free")


@pytest.fixture(scope="module")
def real(smollm2: Path) -> list[tuple[tuple[int, ...], Expected]]:
    """A long prompt and sixteen of mixed lengths, with the answers of transformers to them."""
    reference = Reference(smollm2)
    (long,), company = prompts(smollm2, 1, seed=1, longest=300), prompts(smollm2, 16, longest=32)
    return [(prompt, reference.answer(prompt, 2 + turn % 4)) for turn, prompt in enumerate([long, *company])]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_real_model(rig: Rig, smollm2: Path, real: list[tuple[tuple[int, ...], Expected]], stages: int) -> None:
    nodes, epoch = rig.pipeline(smollm2, stages)
    (prompt, alone), *company = real
    check(alone, rig.ask(nodes[-1], epoch, prompt, max_tokens=len(alone.tokens)).wait().tokens())
    readers = [rig.ask(nodes[-1], epoch, prompt, max_tokens=len(expected.tokens)) for prompt, expected in company]
    for reader, (_, expected) in zip(readers, company, strict=True):
        check(expected, reader.wait().tokens())


def test_seeded_sampling_does_not_depend_on_stages(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("qwen3")
    said = []
    for stages in (1, 2, 4):
        nodes, epoch = rig.pipeline(folder, stages)
        readers = [
            rig.ask(nodes[-1], epoch, prompt, max_tokens=20, params=SEEDED, n=2) for prompt in prompts(folder, 3)
        ]
        said.append([(reader.wait().tokens(0), reader.tokens(1)) for reader in readers])
    assert said[0] == said[1] == said[2]
    assert any(first != second for first, second in said[0])
