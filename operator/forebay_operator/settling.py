"""Which steps may be taken already: an operator that just began does not yet see all that runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from forebay_operator.decide.seen import PipelinePhase, Snapshot
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Step

OVER = (PipelinePhase.BROKEN, PipelinePhase.DRAINED)


@dataclass(frozen=True, slots=True)
class Settling:
    """Workers and gateways of an earlier operator come back within a second, so

        began ──── grow ────────────── shrink ─────▶
          inspect,     + hold, form,       + drop, drain, dissolve
          prepare      routes to gateways

    ``began``: unix seconds; ``grow`` and ``shrink``: seconds after it.
    """

    began: float
    grow: float = 1.5
    shrink: float = 3.0

    def may_grow(self, now: float) -> bool:
        return now >= self.began + self.grow

    def wake_at(self, now: float) -> float | None:
        """When more becomes possible."""
        return min((at for at in (self.began + self.grow, self.began + self.shrink) if at > now), default=None)

    def allowed(self, steps: Sequence[Step], seen: Snapshot, now: float) -> tuple[Step, ...]:
        """``steps`` without those that must wait, and without those that need the room which these would have made."""
        if now >= self.began + self.shrink:
            return tuple(steps)
        waiting = {step for step in steps if self._must_wait(step, seen, now)}
        crowded = {worker for step in waiting for worker in _frees(step, seen)}
        return tuple(step for step in steps if step not in waiting and crowded.isdisjoint(_fills(step)))

    def _must_wait(self, step: Step, seen: Snapshot, now: float) -> bool:
        match step:
            case Hold() | Form():
                return not self.may_grow(now)
            case Drop() | Drain():
                return True
            case Dissolve():  # one that its own workers gave up is no loss
                return not any(pipeline.epoch == step.epoch and pipeline.phase in OVER for pipeline in seen.pipelines)
            case _:
                return False


def _frees(step: Step, seen: Snapshot) -> Collection[str]:
    match step:
        case Drop():
            return {step.worker}
        case Dissolve():
            ended = [pipeline.stages for pipeline in seen.pipelines if pipeline.epoch == step.epoch]
            return {stage.worker for stages in ended for stage in stages}
        case _:
            return ()


def _fills(step: Step) -> Collection[str]:
    match step:
        case Hold():
            return {step.worker}
        case Form():
            return {stage.worker for stage in step.stages}
        case _:
            return ()
