"""What a worker is told about a pipeline, and what it says about it: values and the table of a pipeline's phases.

May not live here: anything that acts or counts time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forebay_api.model import Epoch, Stage
from forebay_worker.states import Table


@dataclass(frozen=True, slots=True)
class StagePlace:
    """One stage and where its worker listens for frames. An empty address is not offered."""

    stage: Stage
    hop_unix: str = ""
    hop_tcp: str = ""


@dataclass(frozen=True, slots=True)
class Formation:
    """A pipeline as one of its workers is told to run it.

    ``index`` is the stage that is meant. ``kv_blocks`` of ``block_tokens`` tokens are reserved for every layer of that
    stage. ``max_model_len`` bounds prompt and answer together, in tokens.
    """

    epoch: Epoch
    backbone: str
    stages: tuple[StagePlace, ...]
    index: int
    kv_blocks: int
    block_tokens: int
    steps_in_flight: int
    max_model_len: int

    @property
    def mine(self) -> Stage:
        return self.stages[self.index].stage

    @property
    def head(self) -> bool:
        """Whether the stage that is meant is the last one, which holds the requests."""
        return self.index == len(self.stages) - 1

    @property
    def after(self) -> int:
        """Index of the stage that gets what this one computes. The head's successor is stage 0."""
        return (self.index + 1) % len(self.stages)


class Phase(StrEnum):
    FORMED = "Formed"
    DRAINING = "Draining"
    DRAINED = "Drained"
    BROKEN = "Broken"


class Happening(StrEnum):
    DRAIN = "drain"  # the operator wants it gone
    EMPTY = "empty"  # the last request ended
    BREAK = "break"  # a neighbour is gone, a step failed, or there was no memory


PIPELINE = Table[Phase, Happening](
    "pipeline",
    {
        (Phase.FORMED, Happening.DRAIN): Phase.DRAINING,
        (Phase.FORMED, Happening.BREAK): Phase.BROKEN,
        (Phase.DRAINING, Happening.DRAIN): Phase.DRAINING,
        (Phase.DRAINING, Happening.EMPTY): Phase.DRAINED,
        (Phase.DRAINING, Happening.BREAK): Phase.BROKEN,
        (Phase.DRAINED, Happening.DRAIN): Phase.DRAINED,
        (Phase.DRAINED, Happening.BREAK): Phase.DRAINED,  # its neighbours were dissolved first
        (Phase.BROKEN, Happening.DRAIN): Phase.BROKEN,
        (Phase.BROKEN, Happening.BREAK): Phase.BROKEN,  # the break comes back round the ring
    },
)


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """One stage of a pipeline as its worker reports it. The counts mean something at the head only."""

    epoch: Epoch
    backbone: str
    stages: tuple[Stage, ...]
    index: int
    phase: Phase
    head: bool
    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_free: int
    block_tokens: int
    kv_bytes: int  # reserved on this worker
    reason: str  # of BROKEN

    @classmethod
    def unformed(cls, formation: Formation, reason: str) -> PipelineStatus:
        """Of one that could not be formed here."""
        return cls(
            epoch=formation.epoch,
            backbone=formation.backbone,
            stages=tuple(place.stage for place in formation.stages),
            index=formation.index,
            phase=Phase.BROKEN,
            head=formation.head,
            running=0,
            waiting=0,
            kv_blocks=formation.kv_blocks,
            kv_blocks_free=formation.kv_blocks,
            block_tokens=formation.block_tokens,
            kv_bytes=0,
            reason=reason,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """``seconds`` that a step of ``tokens`` tokens took."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Measured compute of one decoder layer and of the head unit on this device."""

    backbone: str
    layer: tuple[Sample, ...]
    head: tuple[Sample, ...]


class FaultReason(StrEnum):
    STEP_OVERDUE = "StepOverdue"
    NOT_A_NUMBER = "NotANumber"
    STEP_FAILED = "StepFailed"  # computing raised what no driver said: the backbone is suspect, the device is not
    DEVICE_ERROR = "DeviceError"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that makes this device suspect, or the weights of ``backbone``."""

    reason: FaultReason
    message: str
    unix_us: int
    backbone: str = ""
