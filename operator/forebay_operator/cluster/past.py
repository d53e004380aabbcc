"""What a stored status tells of the past: the last decision and its numbers, cold starts, the last failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from forebay_api.conditions import ConditionType, Reason, Status
from forebay_operator.decide.decision import Input, Limit
from forebay_operator.decisions import Decision
from forebay_operator.timeline import ColdStarts

LONGEST_MESSAGE = 1024
"""Characters; the schema takes more, people read less."""

MOST_INPUTS = 8
"""As many as the schema takes."""

REMEMBERED = ("coldStart", "lastFailure")
"""Fields that outlive what they tell of."""

Conditions = Sequence[Mapping[str, Any]]
"""As they are stored."""


def scaling(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    found = {
        "desired": decision.desired,
        "current": decision.current,
        "reason": decision.reason,
        "message": decision.message[:LONGEST_MESSAGE],
        "inputs": [_input(given) for given in decision.inputs[:MOST_INPUTS]],
    }
    return {"scaling": found | ({"limit": decision.limit} if decision.limit else {})}


def gist(decision: Decision | None) -> tuple[object, ...] | None:
    """What of a decision is worth a write of its own."""
    return decision.gist if decision else None


def stored_gist(stored: Mapping[str, Any]) -> tuple[object, ...] | None:
    """That of the decision that is stored."""
    found = stored.get("scaling")
    return (found.get("desired"), found.get("reason"), found.get("limit", "")) if found else None


def blind(decision: Decision | None) -> bool:
    """Whether it would be another one if more was known."""
    return decision is not None and decision.limit == Limit.BLIND


def blindly(stored: Mapping[str, Any]) -> bool:
    """The same of the decision that is stored."""
    found: bool = (stored.get("scaling") or {}).get("limit") == Limit.BLIND
    return found


def _input(given: Input) -> dict[str, Any]:
    found = {"name": given.name, "value": float(f"{given.value:.6g}"), "source": given.source.value}
    return found | ({"sampledAt": stamp(given.sampled_at)} if given.sampled_at > 0 else {})


def cold_start(ended: ColdStarts) -> dict[str, Any]:
    parts = {"plan": ended.plan, "load": ended.load, "firstToken": ended.first_token}
    return {
        "count": ended.count,
        "lastSeconds": round(ended.seconds, 3),
        "lastTime": stamp(ended.at),
        "breakdown": {name: round(seconds, 3) for name, seconds in parts.items()},
    }


def cold_starts(stored: Mapping[str, Any]) -> int:
    """How many the operators before counted."""
    return int((stored.get("coldStart") or {}).get("count") or 0)


def failure(conditions: Conditions, before: Conditions, stored: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The failure that there is now, if any, with the time at which it was first written. ``before``: the conditions
    of the ``stored`` status."""
    failed = next(filter(_fails, conditions), None)
    if failed is None:
        return {}
    known = stored.get("lastFailure") or {}
    lasts = any(_fails(entry) and entry.get("reason") == failed["reason"] for entry in before)
    since = known.get("time") if lasts and known.get("reason") == failed["reason"] else None
    return {"lastFailure": {"reason": failed["reason"], "message": failed["message"], "time": since or stamp(now)}}


def _fails(entry: Mapping[str, Any]) -> bool:
    """Such a condition, as it is stored."""
    if entry.get("type") == ConditionType.STALLED:
        return entry.get("status") == Status.TRUE
    return entry.get("type") == ConditionType.LOADED and entry.get("reason") == Reason.MODEL_LOAD_FAILED


def stamp(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
