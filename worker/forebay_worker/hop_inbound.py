"""Who sends us frames, and of which pipelines they are wanted.

    a visit's frames ──▶ expected here?   yes: delivered
                                          not yet: kept, until the pipeline is expected or patience ends
                                          not any more: refused, and the visit closed

Thread-safe. May not live here: how frames come in.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import torch
from prometheus_client import Counter

from forebay_wire.v1 import stage_pb2
from forebay_worker.frame import HopLost
from forebay_worker.hop_peer import Deliver, Key, Lost, Message, Pace

log = structlog.get_logger(__name__)

EARLY_FRAMES = 64  # of a visit that waits; a pipeline never has as many steps in flight
REMEMBERED = 1024  # dissolved pipelines whose late frames are refused at once
INBOUND = 512  # visits at once; a pipeline has one at each stage

turned_away_total = Counter("forebay_hop_connections_refused_total", "Connections over the limit of inbound ones")


@dataclass(eq=False, slots=True)
class Visit:
    """One connection from a stage before. All its frames are of one pipeline and stage, which the first one names."""

    close: Callable[[], None]
    key: Key | None = None
    since: float = 0.0  # its first frame came, monotonic seconds
    early: deque[Message] = field(default_factory=deque)


class Inbound:
    """``deliver`` gets each wanted frame, ``lost`` is told when a visit of an expected pipeline ended. Neither may
    block, nor call back."""

    def __init__(self, deliver: Deliver, lost: Lost, pace: Pace) -> None:
        self._deliver = deliver
        self._lost = lost
        self._pace = pace
        self._lock = threading.Lock()
        self._expected: set[Key] = set()
        self._announced: set[Key] = set()
        self._gone: OrderedDict[Key, None] = OrderedDict()
        self._visits: set[Visit] = set()
        self._limit = INBOUND
        self._closed = False

    def announce(self, key: Key) -> None:
        """``key`` will be expected or refused before long: its frames wait for that."""
        with self._lock:
            if key not in self._gone:
                self._announced.add(key)

    def expect(self, key: Key) -> None:
        """Frames of ``key`` are taken from now on, also those that have been waiting for this. Not after ``refuse``."""
        with self._lock:
            self._announced.discard(key)
            if key in self._gone:
                return
            self._expected.add(key)
            for visit in self._of(key):
                while visit.early:  # under the lock: what comes now must not overtake them
                    self._deliver(*visit.early.popleft())

    def refuse(self, key: Key) -> None:
        """Frames of ``key`` are refused from now on, and its visits are closed."""
        with self._lock:
            self._expected.discard(key)
            self._announced.discard(key)
            self._gone[key] = None
            while len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
            visits = self._of(key)
        for visit in visits:
            visit.close()

    def close(self) -> None:
        """Close every visit, and let nobody in any more."""
        with self._lock:
            self._closed = True
            self._expected.clear()
            visits = list(self._visits)
        for visit in visits:
            visit.close()

    def enter(self, close: Callable[[], None]) -> Visit:
        """Begin a visit, to be ended by ``leave``. ``close`` must end it soon, without blocking, from any thread.

        Raises HopLost when there are too many, or none is taken any more.
        """
        with self._lock:
            if self._closed:
                raise HopLost("this worker stops")
            if len(self._visits) >= self._limit:
                turned_away_total.inc()
                raise HopLost(f"too many neighbours: {self._limit}")
            visit = Visit(close)
            self._visits.add(visit)
            return visit

    def take(self, visit: Visit, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        """A frame that came, heartbeats too: patience is looked at when one comes. Raises HopLost when its pipeline is
        not expected here, or not any more."""
        key = Key.of(frame)
        with self._lock:
            if visit.key is None:
                visit.key, visit.since = key, time.monotonic()
            if visit.key != key:
                raise HopLost(f"a frame of {key} on the connection of {visit.key}")
            if key not in self._expected:
                self._keep(visit, key, frame, tensor)
            elif not frame.heartbeat:
                self._deliver(frame, tensor)

    def leave(self, visit: Visit, reason: str) -> None:
        """The visit ended, for ``reason``."""
        with self._lock:
            self._visits.discard(visit)
            expected = visit.key in self._expected
        if visit.key is None:
            log.info("a connection ended before its first frame", phase="hop", reason=reason)
        elif expected:
            self._lost(visit.key, f"from the stage before: {reason}")
        else:
            log.info("frames refused", phase="hop", epoch=str(visit.key.epoch), reason=reason)

    def _keep(self, visit: Visit, key: Key, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        patience = self._pace.prepare if key in self._announced else self._pace.form
        if self._closed or key in self._gone or time.monotonic() - visit.since > patience:
            raise HopLost(f"no pipeline {key.epoch} with stage {key.stage} here")
        if frame.heartbeat:
            return
        if len(visit.early) >= EARLY_FRAMES:
            raise HopLost(f"more than {EARLY_FRAMES} frames before pipeline {key.epoch} is formed here")
        visit.early.append((frame, tensor))

    def _of(self, key: Key) -> list[Visit]:
        return [visit for visit in self._visits if visit.key == key]
