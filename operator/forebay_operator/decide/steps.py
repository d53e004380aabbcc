"""What may be done: the steps that a decision returns and the shell carries out, each idempotent."""

from __future__ import annotations

from dataclasses import dataclass

from forebay_api.model import Epoch, Stage


@dataclass(frozen=True, slots=True)
class Inspect:
    worker: str
    uri: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Prepare:
    worker: str
    backbone: str
    probe: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Load what is missing of ``order``; its first ``urgent`` entries go before other backbones' background."""

    worker: str
    backbone: str
    order: tuple[int, ...]
    urgent: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Let these units go; empty = all of the backbone."""

    worker: str
    backbone: str
    units: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    epoch: Epoch
    backbone: str
    stages: tuple[Stage, ...]
    kv_blocks: int
    block_tokens: int
    steps_in_flight: int
    max_model_len: int
    predicted: Prediction | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Dissolve:
    epoch: Epoch


Step = Inspect | Prepare | Hold | Drop | Form | Drain | Dissolve


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds from the first byte asked: all units of the pipeline resident, and the first token out. That byte is
    asked after ``wait`` seconds, in which links bring what others were promised first."""

    servable: float
    first_token: float
    prompt_tokens: int
    wait: float = 0.0
