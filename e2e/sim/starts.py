"""How replicas begin: where, with which cut, and when they serve. The cut and its prediction are the shipped ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from forebay_api.model import Stage
from forebay_operator.decide.cut import Cut, best_cut, predict
from forebay_operator.decide.seen import Link, WorkerSeen
from sim.function import Function
from sim.hardware import Devices
from sim.models import Kind

MAX_STAGES = 4
KV_TOKENS = 2048
"""Tokens of KV that a new pipeline has room for at least."""


@dataclass(frozen=True)
class Start:
    """Times in seconds from now. ``opens``: when a whole model serves; ``first_token``: of a prompt of so many tokens
    that is there when loading begins; ``fills``: when the first device holds all. ``formed``: requests go to it while
    it loads."""

    devices: list[int]
    opens: float = 0.0
    formed: bool = False
    fills: float = inf
    hop: float = 0.0
    first_token: Callable[[int], float] = lambda tokens: 0.0


class Starts:
    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._cuts: dict[tuple[object, ...], tuple[Cut, dict[str, WorkerSeen]] | None] = {}
        self._firsts: dict[tuple[object, ...], float] = {}
        self._invented = devices.count

    def at_once(self, function: Function) -> Start:
        """On a device that is there whenever it is needed: beside those that exist, and without loading."""
        self._invented += 1
        return Start([self._invented])

    def whole(self, function: Function) -> Start | None:
        """All units on one device; None when none is free."""
        devices = self._devices
        node = devices.fullest()
        if node is None:
            return None
        device = devices.free(node)[0]
        seconds = function.kind.model.link_bytes / devices.rate(node, 1)
        return Start([device], devices.hardware.start + seconds)

    def pipeline(self, function: Function) -> Start | None:
        """The best cut over the free devices of one node; None when none is free."""
        devices = self._devices
        node = devices.emptiest()
        if node is None:
            return None
        free = devices.free(node)[:MAX_STAGES]
        kind = function.kind
        prompt = function.held[0].prompt if function.held else 1
        bucket = devices.bucket(node, len(free)) if devices.hardware.bucket else inf
        found = self._cut(kind, len(free), bucket, prompt)
        if found is None:
            return None
        cut, workers = found
        stages = cut.stages
        head = stages[-1]
        loaded = sum(kind.model.units[unit].link_bytes for unit in head.units)
        rest = (kind.model.link_bytes - loaded) / devices.rate(node, 1)
        return Start(
            devices=[free[int(stage.worker)] for stage in reversed(stages)],
            opens=devices.hardware.start + cut.prediction.servable,
            formed=True,
            fills=devices.hardware.start + cut.prediction.servable + rest,
            hop=kind.costs.hop,
            first_token=lambda tokens: self._first_token(kind, workers, stages, _near(tokens)),
        )

    def _first_token(self, kind: Kind, workers: dict[str, WorkerSeen], stages: tuple[Stage, ...], tokens: int) -> float:
        link = workers[stages[0].worker].link
        key = (kind.model.backbone, stages, link, tokens)
        if key not in self._firsts:
            self._firsts[key] = predict(kind.model, kind.costs, workers, stages, tokens).first_token
        return self._firsts[key]

    def _cut(self, kind: Kind, free: int, bucket: float, prompt: int) -> tuple[Cut, dict[str, WorkerSeen]] | None:
        """Remembered by what it depends on."""
        prompt = _near(prompt)
        key = (kind.model.backbone, free, bucket, prompt)
        if key not in self._cuts:
            hardware = self._devices.hardware
            link = Link(hardware.link, "" if bucket == inf else "node", bucket)
            workers = [
                WorkerSeen(str(place), "", True, hardware.memory, link, frozenset((str(place),)), "node")
                for place in range(free)
            ]
            cut = best_cut(
                kind.model,
                kind.costs,
                workers,
                max_stages=MAX_STAGES,
                prompt_tokens=prompt,
                kv_tokens=KV_TOKENS,
            )
            self._cuts[key] = (cut, {worker.name: worker for worker in workers}) if isinstance(cut, Cut) else None
        return self._cuts[key]


def _near(tokens: int) -> int:
    """Long prompts are told apart by a thirty-second of their length, so that what was worked out is used again."""
    coarse = max(tokens.bit_length() - 6, 0)
    return tokens >> coarse << coarse
