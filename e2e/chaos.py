"""Workers are killed at random moments while answers stream: is any token lost, given twice, or wrong?

One table: per moment, how many were killed, what became of the requests, and how long until tokens came again. Every
answer is compared with what `transformers` generates. The same ``--seed`` chooses the same victims and delays.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from machine import ROOT, heading, table

sys.path.insert(0, str(ROOT / "tests"))

import openai
import torch

from checkpoints import real_smollm2  # the tests' own fixtures: one way to make, start and compare things
from local.reference import Reference
from local.system import System, function, running, write

WORKERS = 4
PROMPTS = {
    "The history of the water wheel began": 40,
    "A forebay is": 64,
    "In the valley the miller counted one, two, three,": 24,
    "Why does ice float on a lake? Because": 56,
    "List of rivers: the Danube, the Rhine,": 48,
}


@dataclass
class Answer:
    """One streamed answer as its reader saw it; ``times`` (monotonic) of its pieces."""

    prompt: str
    text: str = ""
    tokens: int = 0
    error: str = ""
    times: list[float] = field(default_factory=list)


@dataclass
class Moment:
    """When to kill, and in what system. ``begun``: pieces that every answer has before; ``when``: what must be seen;
    ``wait``: at most so many seconds after that; ``again``: at most so many later another is killed (0 = none)."""

    name: str
    when: Callable[[dict[str, Any]], bool]
    begun: int = 0
    wait: float = 0.0
    again: float = 0.0
    kills: int = 0
    answers: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    recovery: list[float] = field(default_factory=list)


def loading(seen: dict[str, Any]) -> bool:
    return any(worker["loading"] for worker in seen["workers"]) and bool(seen["pipelines"])


def reforming(seen: dict[str, Any]) -> bool:
    """A shorter pipeline beside a longer one, or one that drains."""
    lengths = {len(pipeline["stages"]) for pipeline in seen["pipelines"]}
    return len(lengths) > 1 or any(pipeline["phase"] == "Draining" for pipeline in seen["pipelines"])


def serving(seen: dict[str, Any]) -> bool:
    return any(pipeline["phase"] == "Formed" for pipeline in seen["pipelines"])


async def ask(client: openai.AsyncOpenAI, answer: Answer) -> None:
    """Never raises: what went wrong is part of what is counted."""
    try:
        stream = await client.completions.create(
            model="smollm2",
            prompt=answer.prompt,
            max_tokens=PROMPTS[answer.prompt],
            temperature=0,
            logprobs=1,
            stream=True,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                answer.text += choice.text
                answer.tokens += len(choice.logprobs.tokens or []) if choice.logprobs else 0
                answer.times.append(time.monotonic())
    except openai.OpenAIError as error:
        answer.error = f"{type(error).__name__}: {error}"


def judge(moment: Moment, answer: Answer, real: Reference) -> str:
    """Count ``answer``; what was wrong with it, if anything."""
    most = PROMPTS[answer.prompt]
    want, prefixes, toss = real.answer(answer.prompt, most, chat=False)
    moment.answers += 1
    certain = want if toss is None else prefixes[toss - 1] if toss else ""
    if answer.error or (answer.tokens < len(prefixes) and toss is None):
        moment.lost += 1
        return f"lost after {answer.tokens} of {len(prefixes)} tokens: {answer.error or answer.text!r}"
    if answer.tokens > (len(prefixes) if toss is None else most):
        moment.duplicated += 1
        return f"{answer.tokens} tokens, not {len(prefixes)}: {answer.text!r}"
    if answer.text != want and (toss is None or not answer.text.startswith(certain.rstrip("\ufffd"))):
        moment.wrong += 1
        return f"got {answer.text!r}, not {want!r}"
    return ""


async def disturb(system: System, moment: Moment, real: Reference, chance: random.Random, victims: int) -> None:
    """Ask, kill when the moment has come, and judge the answers."""
    answers = [Answer(prompt) for prompt in PROMPTS]
    async with system.client() as client:
        asking = [asyncio.create_task(ask(client, answer)) for answer in answers]
        await system.until(moment.when, moment.name)
        while any(len(answer.times) < moment.begun and not answer.error for answer in answers):
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, moment.wait))
        killed = await kill(system, chance, victims)
        if moment.again:
            await asyncio.sleep(chance.uniform(0, moment.again))
            killed += await kill(system, chance, 1)
        at = time.monotonic()
        await asyncio.wait(asking, timeout=180)
        for answer, task in zip(answers, asking, strict=True):
            if not task.done():
                task.cancel()
                answer.error = "no end within 180 s"
    moment.kills += len(killed)
    later = [next((then - at for then in answer.times if then > at), None) for answer in answers]
    moment.recovery += [seconds for seconds in later if seconds is not None]
    problems = [problem for answer in answers if (problem := judge(moment, answer, real))]
    print(f"… {moment.name}: killed {', '.join(killed)}; {len(problems)} problems", file=sys.stderr)
    for problem in problems:
        print(f"   {problem}", file=sys.stderr)
    await system.until(
        lambda seen: sum(worker["state"] == "Ready" for worker in seen["workers"]) == WORKERS, "the dead are replaced"
    )


async def kill(system: System, chance: random.Random, victims: int) -> list[str]:
    """Workers that have a stage, if there are so many."""
    seen = await system.look()
    staged = sorted({stage["worker"] for pipeline in seen["pipelines"] for stage in pipeline["stages"]})
    living = {worker["name"]: worker["pid"] for worker in seen["workers"]}
    pool = [name for name in staged if name in living]
    chosen = chance.sample(pool, min(victims, len(pool)))
    for name in chosen:
        os.kill(living[name], signal.SIGKILL)
    return chosen


async def to_zero(system: System, file: Path) -> None:
    """Pin to zero and back, so that the next requests are cold."""
    body = file.read_text()
    file.write_text(body.replace("spec:\n", "spec:\n  replicas: 0\n"))
    await system.until(
        lambda seen: not seen["pipelines"] and all(not worker["holds"] for worker in seen["workers"]), "pinned to zero"
    )
    file.write_text(body)
    await system.until(lambda seen: seen["functions"][0]["state"] == "Idle", "unpinned")


async def rounds(
    system: System, file: Path, moments: list[Moment], real: Reference, chance: random.Random, repeat: int
) -> None:
    await system.ready(WORKERS)
    for number in range(repeat):
        for moment in moments:
            await disturb(system, moment, real, chance, victims=1 + number % 2)
            await to_zero(system, file)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=4, help="times each moment is disturbed (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="of victims and delays (default 1)")
    given = parser.parse_args()
    chance, model = random.Random(given.seed), real_smollm2()
    torch.set_num_threads(1)  # threads that spin beside the workers would make it slower
    real = Reference(model)
    for prompt, most in PROMPTS.items():
        real.answer(prompt, most, chat=False)
    free = [
        Moment("loading", loading, wait=2.5),
        Moment("re-forming", reforming, wait=0.3),
        Moment("decoding", serving, begun=4, wait=0.5),
        Moment("decoding, and again", serving, begun=4, wait=0.5, again=1.5),
    ]
    tight = [
        Moment("decoding, a pipeline", serving, begun=4, wait=0.5),
        Moment("that pipeline, and again", serving, begun=4, wait=0.5, again=1.5),
    ]
    # No device holds the whole model in the second system: it stays a pipeline, so that every stage can die decoding.
    systems: list[tuple[list[Moment], str, tuple[str, ...]]] = [
        (free, "60MB/s", ()),
        (tight, "200MB/s", ("--device-memory", "450MB")),
    ]
    for moments, rate, more in systems:
        folder = Path(tempfile.mkdtemp(prefix="forebay-chaos-"))
        file = write(folder / "functions.yaml", function("smollm2", model))
        with running(folder / "state", [file], workers=WORKERS, link_rate=rate, more=more) as system:
            await rounds(system, file, moments, real, chance, given.repeat)
        shutil.rmtree(folder)  # not after a failure: its logs say why
    return report([moment for moments, _, _ in systems for moment in moments], given.seed)


def report(moments: list[Moment], seed: int) -> int:
    print(heading(f"Workers killed while answers stream, {WORKERS} workers, seed {seed}"))
    titles = ["moment", "kills", "requests", "lost", "duplicated", "wrong", "next token after s, median", "worst"]
    rows = [
        [
            moment.name,
            *map(str, (moment.kills, moment.answers, moment.lost, moment.duplicated, moment.wrong)),
            f"{statistics.median(moment.recovery or [0]):.2f}",
            f"{max(moment.recovery, default=0):.2f}",
        ]
        for moment in moments
    ]
    print(table(titles, rows))
    return min(1, sum(moment.lost + moment.duplicated + moment.wrong for moment in moments))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
