"""Who leads: what a Lease says, and what to do about it. Pure; ``Leadership`` carries it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.seen import Body

DURATION = 8.0
"""Seconds after its last change after which a lease is anybody's."""

RENEW = 2.0
"""Seconds from renewal to renewal."""

LABELS = {"app.kubernetes.io/name": "forebay", "app.kubernetes.io/component": "operator"}
"""By which the command line finds an installation."""

RETRY = 1.0
"""Seconds between looks of those who wait, and between attempts to renew."""


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """``version`` empty: there is none. ``transitions``: leaderships so far, which is the leader term. ``changed``:
    when we first saw this version, by our own clock in seconds: times in a lease are of somebody else's clock."""

    holder: str = ""
    transitions: int = 0
    version: str = ""
    changed: float = 0.0


@dataclass(frozen=True, slots=True)
class Acquire:
    """Write ourselves into it, as leader of ``term``."""

    term: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Write that we are still there, as leader of ``term``."""

    term: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody leads, or may still. Look again ``until`` (seconds by our own clock)."""

    until: float


@dataclass(frozen=True, slots=True)
class StepDown:
    """Somebody else leads: what we say is refused from now on."""

    holder: str


def decide(seen: LeaseSeen, me: str, term: int, above: int, now: float) -> Acquire | Renew | Wait | StepDown:
    """``term``: the one that we lead in, 0 = we don't. ``above``: the highest that workers obey or that a
    lease named.

    term   holder    changed
    > 0    we        ·           Renew, in a higher term if workers obey one
    > 0    nobody    ·           Acquire: somebody deleted or emptied it, and nobody was faster
    > 0    another   ·           StepDown
    0      nobody    ·           Acquire
    0      we        ·           Acquire: what we were before has ended
    0      another   8 s ago     Acquire
    0      another   less        Wait
    """
    following = max(seen.transitions, term, above) + 1
    if term:
        if not seen.holder:
            return Acquire(following)
        if seen.holder != me:
            return StepDown(seen.holder)
        return Renew(following if above > term else term)
    if seen.holder in ("", me) or seen.changed + DURATION <= now:
        return Acquire(following)
    return Wait(min(seen.changed + DURATION, now + RETRY))


def lasts(renewed: float, now: float) -> bool:
    """Whether nobody else can have taken the lease yet that we wrote ourselves into, or renewed, with a call that began
    at ``renewed`` (seconds by our own clock). Who was stopped for longer knows of no successor yet."""
    return now < renewed + DURATION


def seen(body: Body | None, before: LeaseSeen, now: float) -> LeaseSeen:
    """What a lease says (None: there is none) that was read at ``now``; ``before``: what it said last."""
    if body is None:
        return LeaseSeen(changed=now)
    spec = body.get("spec") or {}
    version = str(body["metadata"].get("resourceVersion", ""))
    return LeaseSeen(
        holder=str(spec.get("holderIdentity") or ""),
        transitions=int(spec.get("leaseTransitions") or 0),
        version=version,
        changed=before.changed if version == before.version else now,
    )


def body(lease: Body, holder: str, term: int, wall: float, since: float) -> dict[str, Any]:
    """``lease`` (as stored, or ``new``) with other words. ``wall`` and ``since`` (of this leadership): unix seconds."""
    spec: Mapping[str, Any] = {
        "holderIdentity": holder,
        "leaseDurationSeconds": round(DURATION) if holder else 1,
        "leaseTransitions": term,
        "acquireTime": _time(since),
        "renewTime": _time(wall),
    }
    metadata = {key: value for key, value in lease["metadata"].items() if key != "managedFields"}
    return {**lease, "metadata": metadata, "spec": spec}


def new(namespace: str, name: str, owners: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A lease that is not stored yet."""
    metadata: dict[str, Any] = {"namespace": namespace, "name": name, "labels": LABELS}
    if owners:
        metadata["ownerReferences"] = list(owners)
    return {"apiVersion": KINDS.LEASE.api_version, "kind": KINDS.LEASE.name, "metadata": metadata}


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
