"""Small models, workers and functions for tests of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from forebay_api.function import Function, FunctionSpec, Loading, LoadingStrategy, ModelSpec, Scaling
from forebay_api.model import Epoch, Model, Stage, Unit, UnitKind
from forebay_operator.decide.load import Load
from forebay_operator.decide.seen import (
    BackboneSeen,
    Costs,
    DemandSeen,
    FunctionSeen,
    HoldingSeen,
    Link,
    PipelinePhase,
    PipelineSeen,
    Snapshot,
    WorkerSeen,
)

KV_PER_TOKEN_PER_LAYER = 1
CONTEXT = 64
NOW = 2000.0
KNOWN = Load(stable=1.0, panic=1.0, known=60.0, sampled_at=NOW)
WAITING = DemandSeen(waiting=1, oldest_waiting=NOW, load=KNOWN)
STAGES = (Stage("w0", 0, 2), Stage("w1", 3, 5))


def model(name: str = "b", sizes: Sequence[int] = (10, 100, 100, 100, 100, 50), context: int = CONTEXT) -> Model:
    """``sizes`` in bytes: embedding, layers, head."""
    last = len(sizes) - 1
    kinds = [UnitKind.EMBEDDING, *[UnitKind.LAYER] * (last - 1), UnitKind.HEAD]
    units = tuple(Unit(i, kind, size, size, size) for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True)))
    return Model(
        backbone=name,
        uri=f"file:///{name}",
        dtype="float32",
        architecture="llama",
        units=units,
        tied=False,
        hidden_size=8,
        layers=last - 1,
        vocab_size=100,
        max_model_len=context,
        kv_bytes_per_token_per_layer=KV_PER_TOKEN_PER_LAYER,
    )


def worker(
    name: str,
    *,
    memory: int = 10**9,
    rate: float = 100.0,
    bucket: str = "",
    bucket_rate: float = inf,
    resident: Sequence[int] = (),
    backbone: str = "b",
    order: Sequence[int] = (),
    ready: bool = True,
) -> WorkerSeen:
    holdings = {backbone: HoldingSeen(frozenset(resident), tuple(order))} if resident or order else {}
    return WorkerSeen(
        name=name,
        incarnation=f"{name}-1",
        ready=ready,
        memory=memory,
        link=Link(rate, bucket, bucket_rate),
        compute=frozenset({f"host/{name}"}),
        holdings=holdings,
    )


def function(
    name: str = "f",
    *,
    backbone: str = "b",
    demand: DemandSeen | None = None,
    scaling: Scaling | None = None,
    max_stages: int = 4,
    strategy: LoadingStrategy = LoadingStrategy.PIPELINED,
    replicas: int | None = None,
    suspend: bool = False,
    failure: tuple[str, str] | None = None,
    max_model_len: int | None = None,
    first_seen: float = 1000.0,
    priority: int = 0,
    pool: str | None = None,
) -> FunctionSeen:
    spec = FunctionSpec(
        ModelSpec(f"file:///{backbone or name}", max_model_len=max_model_len),
        scaling=scaling or Scaling(),
        replicas=replicas,
        loading=Loading(strategy, max_stages),
        suspend=suspend,
        priority=priority,
    )
    if pool is not None:
        spec = replace(spec, pool=pool)
    return FunctionSeen(
        Function("default", name, f"uid-{name}", 1, 0.0, spec),
        backbone=backbone,
        demand=demand or DemandSeen(),
        failure=failure,
        first_seen=first_seen,
    )


def snapshot(
    functions: Sequence[FunctionSeen] = (),
    workers: Sequence[WorkerSeen] = (),
    models: Sequence[Model] | None = None,
    costs: Costs | None = None,
) -> Snapshot:
    known = [model()] if models is None else models
    prepared = frozenset(m.backbone for m in known)  # one set for all, as `Fleet` has it
    probed = costs or Costs(layer=((1, 0.001),), head=((1, 0.001),), hop=0.0)
    return Snapshot(
        functions=tuple(functions),
        backbones={m.backbone: BackboneSeen(m, probed) for m in known},
        workers=tuple(replace(w, prepared=prepared) for w in workers),
        pipelines=(),
        next_epoch=Epoch(1, 1),
    )


def pipeline(
    *stages: Stage,
    phase: PipelinePhase = PipelinePhase.FORMED,
    counter: int = 1,
    running: int = 0,
    backbone: str = "b",
    told_only: bool = False,
) -> PipelineSeen:
    reported = frozenset() if told_only else frozenset(stage.worker for stage in stages)
    return PipelineSeen(Epoch(1, counter), backbone, stages, phase, running, kv_blocks=4, reported_by=reported)
