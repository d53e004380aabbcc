"""Between messages of the wire and our values, both ways."""

from __future__ import annotations

from forebay_api.model import Epoch, Model, Stage, Unit, UnitKind
from forebay_wire.v1 import fleet_pb2, model_pb2

MOST_UNITS = 520
"""Of a model: where to cut it is searched over all pairs of units, in a pass that everybody waits for. The largest
models have a fourth of that."""


def seconds(unix_us: int) -> float | None:
    """Unix seconds of a time on the wire; None for one that has not come yet."""
    return unix_us / 1e6 if unix_us else None


def epoch(message: model_pb2.Epoch) -> Epoch:
    return Epoch(message.term, message.counter)


def epoch_message(value: Epoch) -> model_pb2.Epoch:
    return model_pb2.Epoch(term=value.term, counter=value.counter)


def stages(pipeline: fleet_pb2.PipelineState) -> tuple[Stage, ...]:
    return tuple(Stage(stage.worker, stage.first, stage.last) for stage in pipeline.stages)


def model(message: model_pb2.Model) -> Model:
    """Raises ValueError, with a text for people, for a kind of unit that we do not know and for too many of them."""
    if (count := len(message.units)) > MOST_UNITS:
        raise ValueError(f"the model has {message.layers} layers in {count} units: expected at most {MOST_UNITS}")
    return Model(
        backbone=message.backbone,
        uri=message.uri,
        dtype=message.dtype,
        architecture=message.architecture,
        units=tuple(
            Unit(unit.index, UnitKind(unit.kind), unit.link_bytes, unit.resident_bytes, unit.parameters)
            for unit in message.units
        ),
        tied=message.tied,
        hidden_size=message.hidden_size,
        layers=message.layers,
        vocab_size=message.vocab_size,
        max_model_len=message.max_model_len,
        kv_bytes_per_token_per_layer=message.kv_bytes_per_token_per_layer,
        revision=message.revision,
        digest=message.digest,
    )


def model_ref(value: Model) -> model_pb2.ModelRef:
    return model_pb2.ModelRef(backbone=value.backbone, uri=value.uri, dtype=value.dtype, revision=value.revision)
