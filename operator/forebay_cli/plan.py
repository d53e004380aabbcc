"""`forebay plan`: the operator's own decision, on workers that only exist in the flags or on those of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from forebay_api import names
from forebay_api.function import Function, LoadingStrategy
from forebay_api.model import Model, Stage, Unit, UnitKind
from forebay_api.quantities import format_size, parse_rate, parse_size
from forebay_cli import preview, view
from forebay_cli.cluster import Cluster
from forebay_cli.tables import aligned
from forebay_cli.workers import DeviceFlags, run_tool
from forebay_operator.decide import kv, ledger, links
from forebay_operator.decide.cut import Cut, Refusal, best_cut
from forebay_operator.decide.seen import Costs, HoldingSeen, Link, WorkerSeen
from forebay_operator.files import FunctionFiles
from forebay_operator.reports import UNKNOWN_RATE
from forebay_operator.subject import Subject


class CannotPlan(Exception):
    """The files are wrong, or a model does not fit. The text is for people."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen to one function at zero when its first request comes. ``measured``: compute is known, and in
    the prediction."""

    function: Function
    model: Model
    cut: Cut
    memory: Mapping[str, int]  # bytes of the device, by worker
    kv_tokens: int
    measured: bool

    def _bytes(self, stage: Stage) -> int:
        return ledger.link_bytes(self.model, stage.units)

    def to_json(self) -> dict[str, Any]:
        predicted = self.cut.prediction
        return {
            "function": str(self.function.key),
            "backbone": self.model.backbone,
            "totalBytes": self.model.link_bytes,
            "stages": [
                {
                    "worker": stage.worker,
                    "first": stage.first,
                    "last": stage.last,
                    "bytes": self._bytes(stage),
                    "residentBytes": ledger.unit_bytes(self.model, stage.units),
                    "kvBytes": ledger.stage_kv_bytes(self.model, stage, self.kv_tokens),
                    "memoryBytes": self.memory[stage.worker],
                }
                for stage in self.cut.stages
            ],
            "kvTokens": self.kv_tokens,
            "predicted": {
                "servable": predicted.servable,
                "firstToken": predicted.first_token,
                "promptTokens": predicted.prompt_tokens,
                "computeMeasured": self.measured,
            },
        }

    def show(self, out: Console, *, wide: bool) -> None:
        predicted, model = self.cut.prediction, self.model
        what = f"{model.architecture}, {model.dtype}, {len(model.units)} units, {format_size(model.link_bytes)}"
        out.print(f"[bold]{self.function.key}[/bold]  {what}", highlight=False)
        titles = ["WORKER", "UNITS", "BYTES", "SHARE", *(["RESIDENT", "KV"] if wide else []), "OF MEMORY"]
        out.print(
            aligned(titles, [self._row(stage, wide=wide) for stage in self.cut.stages]), highlight=False, soft_wrap=True
        )
        least, why = ("", "") if self.measured else ("at least ", ", whose compute nobody there has measured yet")
        out.print(
            f"servable after {predicted.servable:.2f} s, first token after {least}{predicted.first_token:.2f} s "
            f"(prompt of {predicted.prompt_tokens} tokens{why})\n",
            highlight=False,
        )

    def _row(self, stage: Stage, *, wide: bool) -> list[str]:
        resident = ledger.unit_bytes(self.model, stage.units)
        cache = ledger.stage_kv_bytes(self.model, stage, self.kv_tokens)
        memory = self.memory[stage.worker]
        return [
            stage.worker,
            f"{stage.first}–{stage.last}",
            format_size(self._bytes(stage)),
            f"{self._bytes(stage) / self.model.link_bytes:.0%}",
            *([format_size(resident), format_size(cache)] if wide else []),
            f"{(resident + cache) / memory:.0%} of {format_size(memory)}",
        ]


def plans(files: tuple[Path, ...], workers: int, flags: DeviceFlags, prompt_tokens: int) -> list[Plan]:
    """A plan per function of the files, by name. Raises CannotPlan, and ToolFailed for a checkpoint that is wrong."""
    return [_emulated(function, workers, flags, prompt_tokens) for function in _functions(files)]


def plans_there(found: Cluster, files: tuple[Path, ...], prompt_tokens: int) -> list[Plan]:
    """The same on the workers of a cluster. Raises CannotPlan, Unseen, NothingRuns and OperatorAway."""
    target = found.operator()
    seen, home = asyncio.run(view.look(target)), found.home()
    looked: dict[tuple[Subject, str], Model] = {}

    def look(function: Function) -> Model:
        asked = Subject.of(function), function.spec.pool
        if asked not in looked:
            looked[asked] = asyncio.run(preview.look(target, function))
        return looked[asked]

    return plans_in(seen, files, prompt_tokens, home, look)


def plans_in(
    seen: view.View, files: tuple[Path, ...], prompt_tokens: int, home: str, look: Callable[[Function], Model]
) -> list[Plan]:
    """On the workers of a running system, from what they hold and have free now. ``home``: the namespace of functions
    whose files name none; ``look`` says what a model is that no worker has looked at. Raises CannotPlan, and what
    ``look`` raises."""
    return [_placed(function, seen, prompt_tokens, look) for function in _functions(files, home)]


def _functions(files: tuple[Path, ...], home: str = names.DEFAULT_NAMESPACE) -> list[Function]:
    loaded = FunctionFiles(files, home=home).load()
    if loaded.problems:
        raise CannotPlan("\n".join(loaded.problems))
    if not loaded.functions:
        raise CannotPlan("no LLMFunction in the files given")
    return [function for _, function in sorted(loaded.functions.items())]


def _emulated(function: Function, workers: int, flags: DeviceFlags, prompt_tokens: int) -> Plan:
    wanted = function.spec.model
    named = [wanted.uri, "--dtype", wanted.dtype]
    for flag, value in (("--revision", wanted.revision), ("--digest", wanted.digest)):
        named += [flag, value] if value else []
    model = _model(run_tool("inspect", *named))
    probed = run_tool("probe", *named, "--device", flags.device, "--count", str(workers))
    costs = Costs(layer=_samples(probed["layer"]), head=_samples(probed["head"]))
    memory = parse_size(flags.device_memory) if flags.device_memory else int(probed["memory"])
    seen = list(_workers(workers, flags, memory))
    return _plan(function, model, costs, seen, {worker.name: memory for worker in seen}, prompt_tokens)


def _placed(function: Function, seen: view.View, prompt_tokens: int, look: Callable[[Function], Model]) -> Plan:
    rated = links.known(map(_shown_worker, seen["workers"]), UNKNOWN_RATE)
    able = [worker for worker in rated if worker.ready and worker.serves(function.spec.pool)]
    if not able:
        raise CannotPlan(f"{function.key}: no ready worker of pool {function.spec.pool} is attached")
    model, costs = _known(function, seen, look)
    free = {
        shown["name"]: shown["memoryBytes"] - shown["residentBytes"] - shown["kvReservedBytes"]
        for shown in seen["workers"]
    }
    return _plan(function, model, costs, able, free, prompt_tokens)


def _known(function: Function, seen: view.View, look: Callable[[Function], Model]) -> tuple[Model, Costs]:
    """The function's model, and what computing with it costs as far as anybody there has measured it."""
    wanted = function.spec.model
    same = {
        shown["backbone"]
        for shown in seen["functions"]
        if (shown["uri"], shown["dtype"], shown["revision"]) == (wanted.uri, wanted.dtype, wanted.revision or "")
    }
    for shown in seen["models"]:
        if shown["backbone"] in same:
            return shown_model(shown), _shown_costs(shown)
    model = look(function)
    costs = (_shown_costs(shown) for shown in seen["models"] if shown["backbone"] == model.backbone)
    return model, next(costs, Costs())


def _plan(
    function: Function,
    model: Model,
    costs: Costs,
    seen: Sequence[WorkerSeen],
    free: Mapping[str, int],
    prompt_tokens: int,
) -> Plan:
    """``free``: bytes by worker, beside what it holds already."""
    longest = min(function.spec.model.max_model_len or model.max_model_len, model.max_model_len)
    pipelined = function.spec.loading.strategy is LoadingStrategy.PIPELINED
    cut = best_cut(
        model,
        costs,
        seen,
        max_stages=function.spec.loading.max_stages if pipelined else 1,
        prompt_tokens=prompt_tokens,
        kv_tokens=kv.min_tokens(longest),
        room=free,
    )
    if isinstance(cut, Refusal):
        raise CannotPlan(f"{function.key}: {cut.message}")
    held = {worker.name: worker.holdings.get(model.backbone, HoldingSeen()).resident for worker in seen}
    room = {
        stage.worker: free[stage.worker] - ledger.unit_bytes(model, set(stage.units) - held[stage.worker])
        for stage in cut.stages
    }
    quota = kv.quota(model, cut.stages, room, longest)
    assert quota is not None, "the cut fits with the least KV"
    memory = {worker.name: worker.memory for worker in seen}
    return Plan(function, model, cut, memory, quota.blocks * ledger.BLOCK_TOKENS, measured=bool(costs.layer))


def shown_model(shown: dict[str, Any]) -> Model:
    """The model of one of ``models`` in what the operator shows."""
    units = tuple(
        Unit(unit["index"], UnitKind(unit["kind"]), unit["linkBytes"], unit["residentBytes"], unit["parameters"])
        for unit in shown["units"]
    )
    return Model(
        backbone=shown["backbone"],
        uri=shown["uri"],
        dtype=shown["dtype"],
        architecture=shown["architecture"],
        units=units,
        tied=shown["tied"],
        hidden_size=shown["hiddenSize"],
        layers=shown["layers"],
        vocab_size=shown["vocabSize"],
        max_model_len=shown["maxModelLen"],
        kv_bytes_per_token_per_layer=shown["kvBytesPerTokenPerLayer"],
    )


def _shown_worker(shown: dict[str, Any]) -> WorkerSeen:
    bucket = shown["bucketBytesPerSecond"] or float("inf")
    return WorkerSeen(
        name=shown["name"],
        incarnation=shown["incarnation"],
        ready=shown["state"] == "Ready",
        memory=shown["memoryBytes"],
        link=Link(shown["linkBytesPerSecond"], shown["bucket"], bucket),
        compute=frozenset(shown["compute"]),
        node=shown["node"],
        pool=shown["pool"],
        holdings={backbone: HoldingSeen(frozenset(units)) for backbone, units in shown["holds"].items()},
    )


def _shown_costs(shown: dict[str, Any]) -> Costs:
    return Costs(layer=_pairs(shown["layerSeconds"]), head=_pairs(shown["headSeconds"]))


def _pairs(shown: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(tokens), seconds) for tokens, seconds in shown)


def _workers(count: int, flags: DeviceFlags, memory: int) -> Iterator[WorkerSeen]:
    rate = parse_rate(flags.link_rate) if flags.link_rate else UNKNOWN_RATE
    bucket = parse_rate(flags.shared_link) if flags.shared_link else float("inf")
    link = Link(rate, "shared" if flags.shared_link else "", bucket)
    for number in range(count):
        yield WorkerSeen(f"w{number}", "", True, memory, link, frozenset())


def _model(found: dict[str, Any]) -> Model:
    units = tuple(Unit(**{**unit, "kind": UnitKind(unit["kind"])}) for unit in found["units"])
    return Model(**{**found, "units": units})


def _samples(found: list[dict[str, float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(sample["tokens"]), sample["seconds"]) for sample in found)
