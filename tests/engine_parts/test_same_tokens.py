"""Greedy answers are those of transformers, token by token: however the model is cut and whoever shares the steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from safetensors.torch import load_file, save_file

from checkpoints import FAMILIES
from engine_parts.local_pipeline import LocalPipeline, Request
from engine_parts.reference import Expected, Reference
from engine_parts.reference import check as same
from forebay_worker.engine.text import Text

Tiny = Callable[[str], Path]
ANSWER = 10


def crowd(seed: int) -> list[Request]:
    """Sixteen requests of 1 to 60 tokens that join at different steps; four begin with the same 32 tokens."""
    random = Random(seed)
    shared = [random.randrange(3, 512) for _ in range(32)]
    lengths = [1, 2, 5, 15, 16, 17, 31, 33, 47, 48, 60, 8] + [6] * 4
    prompts = [[random.randrange(3, 512) for _ in range(length)] for length in lengths]
    prompts[-4:] = [shared + prompt for prompt in prompts[-4:]]
    return [Request(prompt, ANSWER, joins=random.randrange(12)) for prompt in prompts]


def check(requests: Sequence[Request], expected: Sequence[Expected]) -> None:
    for request, wanted in zip(requests, expected, strict=True):
        same(wanted, request.answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_stages_alone_in_chunks_and_in_a_crowd(family: str, tiny: Tiny) -> None:
    folder = tiny(family)
    reference = Reference(folder)
    expected = [reference.answer(request.prompt, ANSWER) for request in crowd(1)]
    for stages in (1, 2, 3, 4):
        pipeline = LocalPipeline(folder, stages)
        alone = crowd(1)[10]
        pipeline.run([alone])
        check([alone], expected[10:11])
        for chunk in (7, 10_000):
            requests = crowd(1)
            pipeline.run(requests, chunk)
            check(requests, expected)
            assert max(request.cached for request in requests[-4:]) >= 32


def test_a_config_that_ties_what_the_files_do_not(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("qwen2"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    reference, requests = Reference(folder), crowd(3)
    LocalPipeline(folder, 2).run(requests)
    check(requests, [reference.answer(request.prompt, ANSWER) for request in requests])


def windowed(folder: Path, into: Path, **changes: object) -> Path:
    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(config | changes))
    return into


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 9}),
        (
            "qwen2",
            {
                "use_sliding_window": True,
                "sliding_window": 17,
                "max_window_layers": 1,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            },
        ),
    ],
)
def test_a_sliding_window_is_honoured(family: str, changes: dict[str, object], tiny: Tiny, tmp_path: Path) -> None:
    folder = windowed(tiny(family), tmp_path / "model", **changes)
    reference, plain = Reference(folder), Reference(tiny(family))
    requests = crowd(2)
    expected = [reference.answer(request.prompt, ANSWER) for request in requests]
    assert expected[10].tokens != plain.answer(requests[10].prompt, ANSWER).tokens, "this window changes nothing"
    for chunk in (5, 10_000):
        requests = crowd(2)
        LocalPipeline(folder, 2).run(requests, chunk)
        check(requests, expected)


def test_the_real_model(smollm2: Path) -> None:
    text = Text(smollm2)
    prompts = [
        text.encode_chat([{"role": "user", "content": "Name three rivers of Europe."}], 2048),
        text.encode_text("Water boils at", 2048),
    ]
    reference = Reference(smollm2)
    expected = [reference.answer(prompt, 12) for prompt in prompts]
    for stages in (1, 3):
        requests = [Request(prompt, 12) for prompt in prompts]
        LocalPipeline(smollm2, stages, blocks=16).run(requests, chunk=20)
        check(requests, expected)
