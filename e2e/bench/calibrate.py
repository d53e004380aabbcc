"""What this machine computes and loads, measured on a running Forebay: the simulator's constants for it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim.models import Kind

from forebay_api.model import Model
from forebay_cli.plan import shown_model
from forebay_operator.decide.seen import Costs
from local.system import System

BUDGET = 256
"""Prompt tokens in a step (the engine's, on a CPU)."""
PROMPTS = (8, 64, 256)
BATCHES = (1, 4, 8)
TOKENS = 24
LOADING = 4
"""Prompts that are measured while stages load: about as long as four links of 50 MB/s need."""
PAUSE = 4.0
"""Seconds before a prompt: most come when nothing was computed for as long, and the first step after that is slow."""


@dataclass(frozen=True)
class Calibration:
    """``overhead``: seconds of a request beside computing; ``start``: from a cold request to its first byte;
    ``link``: bytes per second that a link really gave; ``staged``: times as long that a step of stages takes that load.
    """

    kind: Kind
    overhead: float
    start: float
    link: float
    staged: float

    def __str__(self) -> str:
        step = 1e3 * self.kind.step(1, 1)
        prefill = 64 / self.kind.prefill(64)
        return (
            f"calibrated: {step:.1f} ms a step of one token, {prefill:.0f} prompt tokens/s, "
            f"{1e3 * self.overhead:.0f} ms beside computing, × {self.staged:.2f} in stages, "
            f"{1e3 * self.start:.0f} ms to the first byte, {self.link / 1e6:.1f} MB/s a link"
        )


async def calibrate(system: System, name: str, link: float, repeat: int) -> Calibration:
    """Costs of ``name``, which is at zero now and alone in asking. ``link``: bytes per second as emulated."""
    cold_first, end = await ask(system, name, 16, TOKENS)
    loading = [await first_token(system, name, 64) for _ in range(LOADING)]
    seen = await system.until(lambda seen: _done(seen, name), "the first replica holds all, alone")
    model = next(model for model in seen["models"] if model["backbone"] == _function(seen, name)["backbone"])
    cold = next(cold for cold in seen["coldStarts"] if cold["name"] == name)
    took, said = cold["servableAt"] - cold["firstByteAt"], cold["predicted"]["servable"]
    firsts: dict[int, list[float]] = {prompt: [] for prompt in PROMPTS}
    steps: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(repeat):
        for prompt, seconds in firsts.items():
            await asyncio.sleep(PAUSE)
            seconds.append(await first_token(system, name, prompt))
        for batch, seconds in steps.items():
            seconds.append(await step_seconds(system, name, batch))
    return fitted(
        shown_model(model),
        {prompt: statistics.median(seconds) for prompt, seconds in firsts.items()},
        {batch: statistics.median(seconds) for batch, seconds in steps.items()},
        start=cold["firstByteAt"] - cold["queuedAt"],
        link=link * said / took,
        loading=((end - cold_first) / (TOKENS - 1), statistics.median(loading)),
    )


def fitted(
    model: Model,
    firsts: dict[int, float],
    steps: dict[int, float],
    *,
    start: float,
    link: float,
    loading: tuple[float, float],
) -> Calibration:
    """A first token has the overhead in it: what a prompt of 8 tokens takes beyond a step of as many, measured apart.
    ``loading``: seconds of a step of one token, and of a first token after 64, of stages that load."""
    overhead = max(firsts[8] - steps[8], 0.0)
    samples = [*steps.items(), *((prompt, seconds - overhead) for prompt, seconds in firsts.items() if prompt > 8)]
    rising = []
    for tokens, seconds in samples:
        rising.append((tokens, max(seconds, rising[-1][1] if rising else 0.0)))
    # All of a step is put down to its layers: only the sum is measured.
    layer = tuple((tokens, seconds / model.layers) for tokens, seconds in rising)
    slower = (loading[0] / steps[1], (loading[1] - overhead) / (firsts[64] - overhead))
    kind = Kind(model, Costs(layer=layer, head=((1, 0.0),), hop=0.0), BUDGET)  # hops are in ``staged``
    return Calibration(kind, overhead, start, link, max(statistics.mean(slower), 1.0))


def _function(seen: dict[str, Any], name: str) -> dict[str, Any]:
    return next(function for function in seen["functions"] if function["name"] == name)


def _done(seen: dict[str, Any], name: str) -> bool:
    cold = [cold for cold in seen["coldStarts"] if cold["name"] == name]
    return bool(cold) and cold[0]["consolidatedAt"] is not None and cold[0]["firstTokenAt"] is not None


_asked = 0


def prompt_of(tokens: int) -> str:
    """About so many tokens, and no other prompt's beginning: nothing of it is in a cache."""
    global _asked
    _asked += 1
    return f"{_asked:05d}" + " mill" * max(tokens - 5, 0)


async def ask(system: System, name: str, prompt: int, answer: int) -> tuple[float, float]:
    """Seconds to the first piece of text and to the end of one request."""
    began = time.monotonic()
    first = 0.0
    async with system.client() as client:
        stream = await client.completions.create(
            model=name,
            prompt=prompt_of(prompt),
            max_tokens=answer,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if chunk.choices and not first:
                first = time.monotonic() - began
    return first, time.monotonic() - began


async def first_token(system: System, name: str, prompt: int) -> float:
    first, _ = await ask(system, name, prompt, 1)
    return first


async def step_seconds(system: System, name: str, batch: int) -> float:
    """Of a step that writes one token of each of ``batch`` requests."""
    found: Sequence[tuple[float, float]] = await asyncio.gather(*(ask(system, name, 16, TOKENS) for _ in range(batch)))
    latest, ended = max(first for first, _ in found), max(end for _, end in found)
    return (ended - latest) / (TOKENS - 1)
