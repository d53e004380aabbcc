"""Which pipeline takes a request: a pure choice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from forebay_api.model import Epoch


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A formed pipeline that takes new requests at ``head`` (a worker), by socket path or by host:port."""

    epoch: Epoch
    backbone: str
    head: str
    engine_unix: str
    engine_tcp: str
    stages: int


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of this gateway at each pipeline: ``all`` of them, and ``mine``, those of the function in question.
    ``most``: how many may be at those that were full."""

    all: Mapping[Epoch, int]
    mine: Mapping[Epoch, int]
    most: Mapping[Epoch, int] = field(default_factory=dict)

    def full(self, epoch: Epoch) -> bool:
        return epoch in self.most and self.all.get(epoch, 0) >= self.most[epoch]


def choose(pipelines: Iterable[Pipeline], load: Load, limit: int, shut: Collection[Epoch]) -> Pipeline | None:
    """The open pipeline with fewest stages, then with least in flight; None when none is open.

    ``limit``: containerConcurrency (0 = none). ``shut``: pipelines that failed a moment ago.
    """
    candidates = (
        pipeline
        for pipeline in pipelines
        if pipeline.epoch not in shut
        and not load.full(pipeline.epoch)
        and (not limit or load.mine.get(pipeline.epoch, 0) < limit)
    )
    return min(
        candidates,
        key=lambda pipeline: (pipeline.stages, load.all.get(pipeline.epoch, 0), pipeline.epoch),
        default=None,
    )
