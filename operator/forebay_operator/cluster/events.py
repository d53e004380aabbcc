"""What happened to functions and pools, as events of the API in plain words: for people, never for machines."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import Counter

from forebay_api import names
from forebay_api.function import FunctionKey
from forebay_operator.cluster.api import Api, ApiError, NotFound
from forebay_operator.cluster.body import status_of
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.pending import Pending, Subject, Told
from forebay_operator.cluster.publish import SETTLED
from forebay_operator.cluster.scaling_events import Sight, news
from forebay_operator.cluster.seen import Body
from forebay_operator.cluster.state_events import Phase, change
from forebay_operator.control import Outcome

log = structlog.get_logger(__name__)

CONTROLLER = f"{names.GROUP}/operator"

WAITING = 256
"""Events of other objects than functions that may wait; more are dropped and counted."""

APART = 0.2
"""Seconds from event to event, over all functions."""

SERIES = 600.0
"""Seconds for which an event like the one before is counted into it."""

SERIES_KEPT = 2048
LONGEST_NOTE = 1000

EVENTS = Counter("forebay_events_total", "Events for the API, by what became of them.", ["how"])
for _how in ("told", "failed", "dropped"):
    EVENTS.labels(_how)  # from the start: a rate sees no rise where there was nothing before


@dataclass(frozen=True, slots=True)
class _Known:
    """What was told of the function of this uid."""

    uid: str
    phase: Phase
    sight: Sight


class Events:
    """For one term. Nobody waits for it, and what the API refuses is not told again."""

    def __init__(
        self,
        api: Api,
        instance: str,
        stored: Callable[[], Mapping[tuple[str, str], Body]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._instance = instance
        self._stored = stored
        self._clock = clock
        self._began = clock()
        self._known: dict[FunctionKey, _Known] = {}
        self._pending = Pending(WAITING)
        self._more = asyncio.Event()
        self._series: OrderedDict[tuple[str, str, str], tuple[str, int, float]] = OrderedDict()

    def take(self, outcome: Outcome) -> None:
        """What a pass said."""
        settled = self._clock() - self._began >= SETTLED
        known: dict[FunctionKey, _Known] = {}
        for function in outcome.seen.functions:
            key, uid = function.function.key, function.function.uid
            if (status := outcome.statuses.get(key)) is None:
                continue
            before = self._before(key, uid)
            decision = outcome.scaling.get(key)
            phase = before.phase.following(status, settled=settled)
            sight = before.sight.following(status, decision, settled=settled)
            if phase is before.phase and sight is before.sight:
                known[key] = before
                continue
            known[key] = _Known(uid, phase, sight)
            subject = Subject(names.API_VERSION, names.KIND, key.namespace, key.name, uid)
            if phase is not before.phase and (told := change(subject, before.phase.state, status)) is not None:
                self._pending.of_function(told)
            for piece in news(before.sight, sight, status, decision):
                found = Told(subject, piece.reason, piece.note, piece.warning, piece.alike, piece.begins)
                self._pending.of_function(found)
        if self._known.keys() - known.keys():
            self._pending.keep({told.uid for told in known.values()})
        self._known = known
        self._more.set()

    def about(self, body: Mapping[str, Any], reason: str, note: str, warning: bool) -> None:
        """Tell something of any object."""
        metadata = body["metadata"]
        subject = Subject(
            str(body["apiVersion"]),
            str(body["kind"]),
            str(metadata.get("namespace") or ""),
            str(metadata["name"]),
            str(metadata.get("uid") or ""),
        )
        if not self._pending.of_other(Told(subject, reason, note, warning)):
            EVENTS.labels("dropped").inc()
        self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while not self._pending:
                self._more.clear()
                await self._more.wait()
            told = self._pending.pop()
            try:
                await self._send(told)
                EVENTS.labels("told").inc()
            except ApiError as error:
                EVENTS.labels("failed").inc()
                log.info("an event could not be told", subject=told.subject.name, reason=told.reason, error=str(error))
            await asyncio.sleep(APART)

    def _before(self, key: FunctionKey, uid: str) -> _Known:
        """What we told, or else the operator before."""
        known = self._known.get(key)
        if known is not None and known.uid == uid:
            return known
        found = self._stored().get((key.namespace, key.name))
        stored = status_of(found) if found else {}
        return _Known(uid, Phase.stored(stored), Sight.stored(stored))

    async def _send(self, told: Told) -> None:
        now = self._clock()
        alike = (told.subject.uid, told.reason, told.alike or told.note)
        namespace = told.subject.namespace or names.DEFAULT_NAMESPACE
        name, count, last = self._series.pop(alike, ("", 0, 0.0))
        if name and now - last < SERIES:
            try:
                series = {"series": {"count": count + 1, "lastObservedTime": _micro(now)}}
                await self._api.patch_merge(KINDS.EVENT, namespace, name, series)
            except NotFound:  # events live for an hour
                name = ""
        else:
            name = ""
        if not name:
            name, count = f"{told.subject.name}.{uuid.uuid4().hex[:16]}", 0
            await self._api.create(_event(told, namespace, name, self._instance, now))
        self._series[alike] = name, count + 1, now
        while len(self._series) > SERIES_KEPT:
            self._series.popitem(last=False)


def _event(told: Told, namespace: str, name: str, instance: str, now: float) -> dict[str, Any]:
    return {
        "apiVersion": KINDS.EVENT.api_version,
        "kind": KINDS.EVENT.name,
        "metadata": {"namespace": namespace, "name": name},
        "eventTime": _micro(now),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "action": "Reconcile",
        "reason": told.reason,
        "note": told.note[:LONGEST_NOTE],
        "type": "Warning" if told.warning else "Normal",
        "regarding": _regarding(told.subject),
    }


def _regarding(subject: Subject) -> dict[str, str]:
    found = {
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": subject.uid,
    }
    return {key: value for key, value in found.items() if value}


def _micro(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
