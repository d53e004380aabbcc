"""Workloads by name: which functions there are, and what is asked of each, with the published shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from random import Random

from sim import arrivals, lengths
from sim.arrivals import DAY, Process
from sim.lengths import Lengths

Asked = tuple[float, int, int]
"""A request: (seconds since the start, tokens of its prompt, tokens of its answer)."""


@dataclass(frozen=True)
class Load:
    """What is asked of one function, without an end. The same ``seed`` asks the same."""

    name: str
    size: str
    seed: str
    process: Process | None = None
    prompts: Lengths | None = None
    answers: Lengths | None = None
    recorded: tuple[Asked, ...] = field(default=(), repr=False)

    def requests(self) -> Iterator[Asked]:
        if self.process is None or self.prompts is None or self.answers is None:
            yield from self.recorded
            return
        times, sizes = Random(f"times {self.seed}"), Random(f"sizes {self.seed}")
        for moment in self.process(times):
            yield moment, self.prompts.draw(sizes), self.answers.draw(sizes)

    def until(self, seconds: float) -> list[Asked]:
        return list(takewhile(lambda asked: asked[0] < seconds, self.requests()))

    def first(self, count: int) -> list[Asked]:
        return list(islice(self.requests(), count))


@dataclass(frozen=True)
class Shape:
    """One service of a published trace. ``source`` says where its numbers come from."""

    process: Callable[[float], Process]
    rate: float
    prompts: Lengths
    answers: Lengths
    source: str

    def load(self, name: str, size: str, seed: str, scale: float = 1.0) -> Load:
        """One function of this shape, ``scale`` times as often."""
        return Load(name, size, seed, self.process(self.rate * scale), self.prompts, self.answers)


SHAPES = {
    "azure-code": Shape(
        lambda rate: arrivals.batches(rate, on=24.0, off=64.0, off_cv=0.66, swing=0.62),
        2.57,
        lengths.AZURE_CODE_INPUT,
        lengths.AZURE_CODE_OUTPUT,
        "Azure LLM inference 2023, code: sharp batches between silences",
    ),
    "azure-conv": Shape(
        lambda rate: arrivals.gamma(rate, 1.09),
        5.53,
        lengths.AZURE_CONV_INPUT,
        lengths.AZURE_CONV_OUTPUT,
        "Azure LLM inference 2023, conversation: nearly Poisson",
    ),
    "burstgpt": Shape(
        lambda rate: arrivals.swinging(rate, cv=1.6, swing=0.8, seconds=300.0),
        0.56,
        lengths.BURSTGPT_INPUT,
        lengths.BURSTGPT_OUTPUT,
        "BurstGPT: gamma gaps with CV above 1, at a rate that swings; lengths like Zipf's law, ours",
    ),
    "mooncake": Shape(
        lambda rate: arrivals.poisson(rate),
        3.4,
        lengths.MOONCAKE_INPUT,
        lengths.MOONCAKE_OUTPUT,
        "Mooncake conversation: long prompts; Poisson, since no variation of its gaps is published",
    ),
}
FUNCTIONS = "azure-functions"
NAMES = (*SHAPES, FUNCTIONS)

# Serverless in the Wild (Azure Functions 2019), from memory: 45 % are called at most once an hour, 81 % at most once a
# minute in the mean.
RARE, HOURLY = 0.45, 24.0
SELDOM, MINUTELY = 0.81, 1440.0
TIMERS = 0.42
"""Share of functions that only timers call (Huawei, 2025). No timer calls more than once a minute."""
SIZES = (("1b", 0.5), ("8b", 0.4), ("14b", 0.1))
"""Of the models of many functions: ours, nothing is published."""


def services(name: str, count: int, seed: int, *, scale: float = 1.0, size: str = "8b") -> tuple[Load, ...]:
    """``count`` functions of one shape, each a run of its own."""
    shape = SHAPES[name]
    return tuple(shape.load(f"{name}-{i}", size, f"{name} {seed} {i}", scale) for i in range(count))


def many(count: int, seed: int, *, most_a_day: float = 20_000.0) -> tuple[Load, ...]:
    """``count`` functions whose popularity is as heavy-tailed as that of Azure Functions, up to ``most_a_day``: most
    are called rarely, some by timers, the others more by day than by night."""
    return tuple(_function(index, Random(f"functions {seed} {index}"), seed, most_a_day) for index in range(count))


def _function(index: int, random: Random, seed: int, most: float) -> Load:
    # The two published shares fix the log-normal: z(0.45) = -0.1257, z(0.81) = 0.8779, ln(1440/24) = 4.0943.
    spread = 4.0943 / (0.8779 + 0.1257)
    a_day = min(HOURLY * random.lognormvariate(0.1257 * spread, spread), most)
    rate = max(a_day, 0.5) / DAY
    draw = random.random()
    seldom = 1.0 if most <= MINUTELY else SELDOM  # only these may be a timer's
    if draw < TIMERS / seldom and a_day <= MINUTELY:
        # People write whole minutes, hours and days.
        even = [60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 6 * 3600.0, 12 * 3600.0, DAY]
        process = arrivals.timer(min(even, key=lambda period: abs(period - 1 / rate)))
    else:
        process = arrivals.by_day(rate, cv=1.0 + random.random() * 2, depth=0.6, peak=random.gauss(14, 3) * 3600)
    size = random.choices([name for name, _ in SIZES], [share for _, share in SIZES])[0]
    prompts, answers = random.choice(
        (
            (lengths.AZURE_CODE_INPUT, lengths.AZURE_CODE_OUTPUT),
            (lengths.AZURE_CONV_INPUT, lengths.AZURE_CONV_OUTPUT),
        )
    )
    return Load(f"f{index}", size, f"functions {seed} {index}", process, prompts, answers)
