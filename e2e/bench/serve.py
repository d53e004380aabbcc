"""How many tokens per second once warm? One worker and four stages, beside transformers with the same threads."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import peak
from machine import ROOT, heading, table

sys.path.insert(0, str(ROOT / "tests"))

from checkpoints import real_smollm2  # the tests' own fixtures: one way to make and start things
from local.reference import Reference
from local.system import System, function, running, write

TOKENS = 40  # of an answer: with its prompt four blocks of KV, of which the four devices have room for 128
BATCHES = (1, 8, 16, 32)
# Three such devices are too small for the units and the least KV, four are not.
STAGE_MEMORY = "205MB"


@dataclass
class Rates:
    """Tokens per second by batch size, one a repetition."""

    name: str
    seen: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})

    def median(self, batch: int) -> float:
        return statistics.median(self.seen[batch])


def prompts(batch: int) -> list[str]:
    """As many prompts of the same length as the batch is wide; none is another's prefix."""
    return [
        f"{number:02d} rivers and mills, a story for children, told slowly and with care:" for number in range(batch)
    ]


async def ours(system: System, batch: int) -> float:
    async with system.client() as client:

        async def one(prompt: str) -> int:
            answer = await client.completions.create(
                model="smollm2", prompt=prompt, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
            )
            assert answer.usage is not None
            return answer.usage.completion_tokens

        began = time.monotonic()
        made = await asyncio.gather(*map(one, prompts(batch)))
        return sum(made) / (time.monotonic() - began)


def theirs(reference: Reference, batch: int) -> float:
    import torch

    inputs = reference.tokenizer(prompts(batch), return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        began = time.monotonic()
        made = reference.model.generate(
            **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        return (made.shape[1] - inputs["input_ids"].shape[1]) * batch / (time.monotonic() - began)


@asynccontextmanager
async def serving(model: Path, workers: int, more: tuple[str, ...], stages: int) -> AsyncIterator[System]:
    """A warm system whose pipeline has that many stages."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as temporary:
        folder = Path(temporary)
        scaling = {"minReplicas": 1, "maxReplicas": 1, "scaleToZeroGracePeriodSeconds": 600}
        file = write(folder / "functions.yaml", function("smollm2", model, scaling=scaling))
        with running(folder / "state", [file], workers=workers, more=more) as system:
            await system.until(
                lambda seen: any(len(pipeline["stages"]) == stages for pipeline in seen["pipelines"]),
                f"{stages} stages",
            )
            await ours(system, 1)
            yield system


TITLES = ["batch", "at most", "transformers", "one worker", "÷ transformers", "four stages", "÷ one worker"]


def report(model: Path, most: peak.Peak, one: Rates, four: Rates, plain: Rates, repeat: int) -> None:
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    rows = [
        [
            str(batch),
            f"{most.tokens(batch, size):.1f}",
            f"{plain.median(batch):.1f}",
            f"{one.median(batch):.1f}",
            f"{one.median(batch) / plain.median(batch):.2f}",
            f"{four.median(batch):.1f}",
            f"{four.median(batch) / one.median(batch):.2f}",
        ]
        for batch in BATCHES
    ]
    print(heading(f"Serving SmolLM2-135M-Instruct, fp32, {TOKENS} tokens an answer: tokens/s, median of {repeat}"))
    print(table(TITLES, rows))
    print(
        f"\nat most: a step reads {size / 1e6:.0f} MB of weights, once for its whole batch, and computes with all of "
        f"them for every token. Measured here: {most.bytes_read / 1e9:.1f} GB/s, {most.operations / 1e9:.0f} GFLOP/s."
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="times each case is measured, interleaved (default 3)")
    given = parser.parse_args()
    model = real_smollm2()
    reference = Reference(model)
    theirs(reference, 1)
    most = peak.measure()
    one, four, plain = Rates("one worker"), Rates("four stages"), Rates("transformers")
    async with (
        serving(model, 1, (), 1) as single,
        serving(model, 4, ("--device-memory", STAGE_MEMORY), 4) as staged,
    ):
        for _ in range(given.repeat):
            for batch in BATCHES:
                one.seen[batch].append(await ours(single, batch))
                plain.seen[batch].append(theirs(reference, batch))
                four.seen[batch].append(await ours(staged, batch))
    report(model, most, one, four, plain, given.repeat)


if __name__ == "__main__":
    asyncio.run(main())
