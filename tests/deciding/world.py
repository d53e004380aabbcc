"""A fleet that does what it is told, one event at a time, and checks at every event what must never happen.

Steps travel in order and arrive when `deliver` says so; meanwhile decisions see them as intents. Links move one unit at
a time, urgent units first. Memory is a hard budget.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from forebay_api.function import FunctionKey, ModelSpec
from forebay_api.model import Epoch, Model, Stage
from forebay_operator.decide.intents import applied, settled
from forebay_operator.decide.ledger import stage_kv_bytes, unit_bytes
from forebay_operator.decide.load import Load, Memory
from forebay_operator.decide.plan import Plan, next_steps
from forebay_operator.decide.pressure import Payment, Turns
from forebay_operator.decide.seen import (
    BackboneSeen,
    Costs,
    FunctionSeen,
    HoldingSeen,
    Link,
    PipelinePhase,
    PipelineSeen,
    Snapshot,
    WorkerSeen,
)
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Inspect, Prepare, Step
from forebay_operator.rolling import Rolling

PASSES = 40


@dataclass
class Held:
    resident: set[int] = field(default_factory=set)
    order: tuple[int, ...] = ()
    urgent: int = 0

    @property
    def missing(self) -> list[int]:
        return [unit for unit in self.order if unit not in self.resident]


@dataclass
class Device:
    name: str
    memory: int
    link: Link
    life: int = 1
    alive: bool = True
    held: dict[str, Held] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)
    probed: set[str] = field(default_factory=set)
    loads: Counter[tuple[str, int]] = field(default_factory=Counter)


@dataclass
class Pipe:
    form: Form
    phase: PipelinePhase = PipelinePhase.FORMED
    running: list[str] = field(default_factory=list)

    @property
    def workers(self) -> set[str]:
        return {stage.worker for stage in self.form.stages}


class World:
    def __init__(self, models: Sequence[Model], functions: Sequence[FunctionSeen], devices: Sequence[Device]) -> None:
        self.models = {model.backbone: model for model in models}
        self.functions = {f.function.name: f for f in functions}
        self.backbone_of = {f.function.name: f.backbone for f in functions}
        self.devices = {device.name: device for device in devices}
        self.pipes: dict[Epoch, Pipe] = {}
        self.waiting: Counter[str] = Counter()
        self.under_way: deque[Step] = deque()
        self.counter = 0
        self.now = 1000.0
        self.forms: list[Form] = []
        self.known: set[str] = set()
        self.inspecting: set[str] = set()
        self.rolling = Rolling()
        self.turns = Turns()
        self.memories: dict[FunctionKey, Memory] = {}
        self.payments: list[Payment] = []

    # -- what is seen --

    def reported(self) -> Snapshot:
        seen = Snapshot(
            functions=tuple(self._function(name) for name in self.functions),
            backbones={name: BackboneSeen(self.models[name], self._costs(name)) for name in sorted(self.known)},
            workers=tuple(self._worker(device) for device in self.devices.values() if device.alive),
            pipelines=tuple(self._pipeline(epoch, pipe) for epoch, pipe in self.pipes.items()),
            next_epoch=Epoch(1, self.counter + 1),
            turns=self.turns,
        )
        return self.rolling.laid_over(seen, {name: self.models[name] for name in self.known})

    def seen(self) -> Snapshot:
        return applied(self.reported(), list(self.under_way))

    def _costs(self, backbone: str) -> Costs:
        if any(backbone in device.probed for device in self.devices.values()):
            return Costs(layer=((1, 0.01),), head=((1, 0.01),), hop=0.001)
        return Costs()

    def _function(self, name: str) -> FunctionSeen:
        function = self.functions[name]
        backbone = self.backbone_of[name] if self.backbone_of[name] in self.known else ""
        running = sum(pipe.running.count(name) for pipe in self.pipes.values())
        requests = self.waiting[name] + running
        load = Load(stable=requests, panic=requests, known=3600.0, sampled_at=self.now)  # for as long as one looks back
        demand = replace(function.demand, waiting=self.waiting[name], in_flight=running, load=load)
        memory = self.memories.get(function.function.key, Memory())
        return replace(function, backbone=backbone, demand=demand, memory=memory)

    def _worker(self, device: Device) -> WorkerSeen:
        return WorkerSeen(
            name=device.name,
            incarnation=f"{device.name}-{device.life}",
            ready=True,
            memory=device.memory,
            link=device.link,
            compute=frozenset({f"gpu-{device.name}"}),
            holdings={
                backbone: HoldingSeen(frozenset(held.resident), held.order, held.urgent)
                for backbone, held in device.held.items()
            },
            kv_bytes={
                epoch: self._kv(pipe, device.name) for epoch, pipe in self.pipes.items() if device.name in pipe.workers
            },
            prepared=frozenset(device.prepared),
            probed=frozenset(device.probed),
        )

    def _pipeline(self, epoch: Epoch, pipe: Pipe) -> PipelineSeen:
        alive = frozenset(name for name in pipe.workers if self.devices[name].alive)
        form = pipe.form
        return PipelineSeen(
            epoch, form.backbone, form.stages, pipe.phase, len(pipe.running), 0, form.kv_blocks, reported_by=alive
        )

    def _kv(self, pipe: Pipe, worker: str) -> int:
        tokens = pipe.form.kv_blocks * pipe.form.block_tokens
        model = self.models[pipe.form.backbone]
        return sum(stage_kv_bytes(model, stage, tokens) for stage in pipe.form.stages if stage.worker == worker)

    # -- events --

    def decide(self) -> Plan:
        plan = next_steps(self.seen(), self.now)
        self.turns = plan.turns
        self.memories = {key: scale.memory for key, scale in plan.scales.items()}
        self.payments += plan.payments
        for step in plan.steps:
            if isinstance(step, Form):
                self.counter = max(self.counter, step.epoch.counter)
        self.under_way.extend(plan.steps)
        return plan

    def deliver(self, count: int = 10**6) -> None:
        for _ in range(min(count, len(self.under_way))):
            step = self.under_way.popleft()
            self._take(step)
            if not isinstance(step, Drain):
                assert settled(self.reported(), step) or not self._listening(step), step

    def settle(self) -> Plan:
        """Decide and deliver until there is nothing left to say. That it ends is what is tested."""
        self.deliver()
        for _ in range(PASSES):
            self.advance_pipes()
            plan = self.decide()
            if not plan.steps:
                return plan
            self.deliver()
        raise AssertionError(f"no fixed point: {plan.steps}")

    def load(self, name: str) -> bool:
        """One more unit lands on a worker; False when it has nothing to load."""
        device = self.devices[name]
        queue = [(u not in held.order[: held.urgent], b, u) for b, held in device.held.items() for u in held.missing]
        if not device.alive or not queue:
            return False
        soonest = min(range(len(queue)), key=lambda place: queue[place][0])
        _, backbone, unit = queue[soonest]
        device.held[backbone].resident.add(unit)
        device.loads[backbone, unit] += 1
        assert device.loads[backbone, unit] == 1, f"{name} read {backbone}/{unit} twice"
        self._check_memory(device)
        return True

    def load_all(self) -> None:
        """Everything that was asked for lands, each worker unit by unit, with a pass after every landing."""
        while sum(self.load(name) for name in self.devices):
            self.settle()
            self.serve()

    def ask(self, name: str, prompt_bytes: int = 40) -> None:
        self.waiting[name] += 1
        function = self.functions[name]
        demand = replace(
            function.demand, oldest_waiting=function.demand.oldest_waiting or self.now, prompt_bytes=prompt_bytes
        )
        self.functions[name] = replace(function, demand=demand)

    def change(self, name: str, backbone: str) -> None:
        """Its uri names another model now."""
        self.backbone_of[name] = backbone
        function = self.functions[name]
        spec = replace(function.function.spec, model=ModelSpec(self.models[backbone].uri))
        self.functions[name] = replace(function, function=replace(function.function, spec=spec))

    def serve(self) -> None:
        """Waiting requests go to the shortest pipeline of the backbone that serves them."""
        serving = {function.function.name: function.serving for function in self.reported().functions}
        for name in self.functions:
            formed = [pipe for pipe in self.pipes.values() if pipe.phase is PipelinePhase.FORMED]
            mine = [pipe for pipe in formed if pipe.form.backbone == serving[name]]
            if mine and self.waiting[name]:
                pipe = min(mine, key=lambda pipe: len(pipe.form.stages))
                pipe.running += [name] * self.waiting.pop(name)
                function = self.functions[name]
                self.functions[name] = replace(function, demand=replace(function.demand, oldest_waiting=0.0))

    def finish(self) -> bool:
        """Requests on pipelines that hold all they need end."""
        ended = [name for pipe in self.pipes.values() if self._servable(pipe) for name in pipe.running]
        for pipe in self.pipes.values():
            if self._servable(pipe):
                pipe.running.clear()
        for name in ended:
            function = self.functions[name]
            demand = replace(function.demand, last_ended=self.now)
            self.functions[name] = replace(function, demand=demand)
        return bool(ended)

    def kill(self, name: str) -> None:
        device = self.devices[name]
        device.alive, device.held = False, {}
        device.prepared, device.probed = set(), set()
        device.loads.clear()
        for epoch, pipe in list(self.pipes.items()):
            if name in pipe.workers:
                self._break(epoch, pipe)

    def replace(self, name: str) -> None:
        device = self.devices[name]
        if not device.alive:
            device.alive, device.life = True, device.life + 1
            self.under_way = deque(step for step in self.under_way if getattr(step, "worker", "") != name)

    def advance_pipes(self) -> None:
        for pipe in self.pipes.values():
            if pipe.phase is PipelinePhase.DRAINING and not pipe.running:
                pipe.phase = PipelinePhase.DRAINED

    # -- what workers do --

    def _listening(self, step: Step) -> bool:
        name = getattr(step, "worker", None)
        workers = [name] if name else [stage.worker for stage in getattr(step, "stages", ())]
        return all(self.devices[worker].alive for worker in workers)

    def _take(self, step: Step) -> None:
        if not self._listening(step):
            return
        match step:
            case Inspect():
                self.known |= {name for name, model in self.models.items() if model.uri == step.uri}
            case Prepare():
                self.devices[step.worker].prepared.add(step.backbone)
                if step.probe:
                    self.devices[step.worker].probed.add(step.backbone)
            case Hold():
                held = self.devices[step.worker].held.setdefault(step.backbone, Held())
                held.order, held.urgent = step.order, step.urgent
                assert len(set(step.order)) == len(step.order)
            case Drop():
                self._drop(step)
            case Form():
                self._form(step)
            case Drain():
                if step.epoch in self.pipes and self.pipes[step.epoch].phase is PipelinePhase.FORMED:
                    self.pipes[step.epoch].phase = PipelinePhase.DRAINING
            case Dissolve():
                pipe = self.pipes.pop(step.epoch, None)
                assert pipe is None or not pipe.running, f"{step} while {pipe} runs requests"

    def _drop(self, step: Drop) -> None:
        assert not step.units
        device = self.devices[step.worker]
        used = [
            pipe for pipe in self.pipes.values() if pipe.form.backbone == step.backbone and device.name in pipe.workers
        ]
        assert not used, f"{step} while in use by {used}"
        device.held.pop(step.backbone, None)
        device.loads = Counter({key: count for key, count in device.loads.items() if key[0] != step.backbone})

    def _form(self, step: Form) -> None:
        model = self.models[step.backbone]
        assert [unit for stage in step.stages for unit in stage.units] == list(range(len(model.units)))
        assert len({stage.worker for stage in step.stages}) == len(step.stages)
        assert step.epoch not in self.pipes
        assert step.max_model_len <= step.kv_blocks * step.block_tokens
        assert all(earlier.epoch < later.epoch for earlier, later in pairwise([*self.forms, step]))
        self.forms.append(step)
        pipe = Pipe(step)
        self.pipes[step.epoch] = pipe
        if any(not self._ready_for(stage, step.backbone) for stage in step.stages):
            self._break(step.epoch, pipe)
        for stage in step.stages:
            self._check_memory(self.devices[stage.worker])

    def _ready_for(self, stage: Stage, backbone: str) -> bool:
        held = self.devices[stage.worker].held.get(backbone)
        return held is not None and set(stage.units) <= held.resident | set(held.order)

    def _break(self, epoch: Epoch, pipe: Pipe) -> None:
        self.waiting.update(pipe.running)
        pipe.running.clear()
        pipe.phase = PipelinePhase.BROKEN
        if not any(self.devices[name].alive for name in pipe.workers):
            del self.pipes[epoch]

    def _servable(self, pipe: Pipe) -> bool:
        return pipe.phase is not PipelinePhase.BROKEN and all(
            self.devices[stage.worker].held[pipe.form.backbone].resident.issuperset(stage.units)
            for stage in pipe.form.stages
        )

    def _check_memory(self, device: Device) -> None:
        units = sum(unit_bytes(self.models[backbone], held.resident) for backbone, held in device.held.items())
        kv = sum(self._kv(pipe, device.name) for pipe in self.pipes.values())
        assert units + kv <= device.memory, f"{device.name}: {units} + {kv} over {device.memory}"

    # -- what can be asked --

    def full(self, backbone: str) -> list[str]:
        size = len(self.models[backbone].units)
        return [
            device.name
            for device in self.devices.values()
            if backbone in device.held and len(device.held[backbone].resident) == size
        ]

    def formed(self, backbone: str) -> list[int]:
        """The number of stages of each pipeline that takes requests, ascending."""
        return sorted(
            len(pipe.form.stages)
            for pipe in self.pipes.values()
            if pipe.form.backbone == backbone and pipe.phase is PipelinePhase.FORMED
        )
