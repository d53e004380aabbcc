"""A function whose model changed: new holdings first, then the switch, then the old ones leave."""

from __future__ import annotations

from forebay_operator.decide import routes
from forebay_operator.decide.order import servable
from forebay_operator.decide.seen import Snapshot


def previous(seen: Snapshot, backbone: str, served: str) -> str:
    """The backbone that still serves a function which names ``backbone`` (empty: not known yet, or it cannot be had)
    and was ``served`` by another one; empty when there is nothing to wait for, or nothing left to serve it meanwhile.

    ==================  =====================  ===================
    ``backbone``        ``served``             requests go to
    ==================  =====================  ===================
    has all its units   any                    ``backbone``
    is on its way       takes requests         ``served``
    is on its way       at zero, or broken     ``backbone``: held
    ==================  =====================  ===================
    """
    if served == backbone or _answers(seen, backbone):
        return ""
    return served if any(map(routes.reported, routes.formed(seen, served))) else ""


def _answers(seen: Snapshot, backbone: str) -> bool:
    """Whether a pipeline has all that it needs: one that still loads would let requests wait that need not."""
    return any(
        routes.reported(pipeline) and servable(seen, backbone, pipeline.stages)
        for pipeline in routes.formed(seen, backbone)
    )
