"""The process that has done the imports and forks workers, again and again.

    python -m forebay_worker serve --count 2
      zygote    torch and the model families imported, one thread, skeletons and tokenizers on the shelf
        ├─fork▸ w0
        └─fork▸ w1      dies ▸ forked again at once, as a new incarnation of the same name

A fork copies only the calling thread, so nothing here may have started another one before: no gRPC, no CUDA, no
parallel torch operation (its pool would be missing in the child, which then hangs). No weights either: a fork copies
page tables.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from forebay_worker.config import WorkerConfig
from forebay_worker.cores import Cores, Share
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.load.link import Bucket

if TYPE_CHECKING:  # imports torch, which has its time in warm_up
    from forebay_worker.shelf import Shelf

log = structlog.get_logger(__name__)

CRASH_WINDOW = 10.0
"""Seconds over which deaths are counted."""
CRASHES_AT_ONCE = 5
"""So many deaths in the window are answered by an immediate fork; each further one waits longer."""
LONGEST_DELAY = 5.0
KILL_AFTER = 2.0
"""Seconds beyond the drain time until a worker that has not ended is killed."""

STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})
PR_SET_PDEATHSIG = 1
MESSAGE_BYTES = 64 * 1024
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "opt", "gpt_neox")


@dataclass(frozen=True, slots=True)
class Seat:
    """What a forked worker is given. ``control`` leads to the zygote; ``index`` counts the workers of this zygote."""

    config: WorkerConfig
    name: str
    index: int
    incarnation: str
    control: socket.socket
    shelf: Shelf
    shared_bucket: Bucket | None
    bucket_name: str
    cores: Share

    @property
    def pid(self) -> int:
        return os.getpid()

    def ask_to_prepare(self, backbone: str, uri: str, dtype: str) -> None:
        """Have the zygote put a model on its shelf, for workers to come. Never waits: a full socket drops it."""
        message = json.dumps({"backbone": backbone, "uri": uri, "dtype": dtype}).encode()
        with contextlib.suppress(OSError):
            self.control.send(message, socket.MSG_DONTWAIT)


@dataclass(slots=True)
class Place:
    """One worker's name, whoever sits there at the moment. ``pid`` 0 = nobody; ``due``: when to fork (monotonic)."""

    name: str
    index: int
    pid: int = 0
    due: float = 0.0
    control: socket.socket | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=32))


def refork_delay(deaths: Sequence[float], now: float) -> float:
    """Seconds to wait before the next fork, given the times of past deaths."""
    surplus = sum(now - death <= CRASH_WINDOW for death in deaths) - CRASHES_AT_ONCE
    return min(0.25 * 2**surplus, LONGEST_DELAY) if surplus > 0 else 0.0


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Get ``number`` when the parent ends; exit if it has ended already (``parent`` 0 = whoever it is now)."""
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        sys.exit(0)


def warm_up() -> None:
    """Import what workers need. The longest part of a start: seconds."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for family in FAMILIES:
        importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    for module in ("tokenizers", "grpc.aio", "forebay_worker.life"):
        importlib.import_module(module)


class Zygote:
    """Forks the workers of ``config`` and keeps them there until told to stop. ``live`` is a worker's whole life."""

    def __init__(self, config: WorkerConfig, shelf: Shelf, live: Callable[[Seat], int]) -> None:
        self._config = config
        self._live = live
        self._shelf = shelf
        self._bucket = Bucket(config.shared_link) if config.shared_link else None
        self._cores = Cores(config.count, len(config.cpus) or 1)
        self._places = [Place(name, index) for index, name in enumerate(config.names)]
        self._selector = selectors.DefaultSelector()
        self._signals, self._signalled = socket.socketpair()
        self._stop_by: float | None = None

    def run(self) -> None:
        """Until SIGTERM (or SIGINT, unless a parent is in charge) and the end of every worker."""
        self._listen_to_signals()
        try:
            while self._stop_by is None or any(place.pid for place in self._places):
                self._fork_those_due()
                self._kill_those_overdue()
                for key, _ in self._selector.select(self._patience()):
                    key.data()
        finally:
            signal.set_wakeup_fd(-1)
            gc.unfreeze()  # or libraries call what is frozen a leak when the interpreter ends
            for place in self._places:
                self._remove_sockets(place)

    def _listen_to_signals(self) -> None:
        # The handlers do nothing: the number arrives through the wake-up descriptor, in the loop's own time.
        self._signals.setblocking(False)
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        # Ctrl-C reaches the whole process group; a parent that is in charge drains first and then sends SIGTERM.
        managed = self._config.die_with_parent is not None
        signal.signal(signal.SIGINT, signal.SIG_IGN if managed else lambda *_: None)

    def _on_signals(self) -> None:
        numbers = set(self._signals.recv(MESSAGE_BYTES))
        if numbers & STOPPING:
            self._stop()
        self._reap()

    def _stop(self) -> None:
        now = time.monotonic()
        if self._stop_by is not None:
            self._stop_by = now  # asked twice: no more patience
            return
        log.info("zygote.stopping", drain_seconds=self._config.drain_seconds)
        self._stop_by = now + self._config.drain_seconds + KILL_AFTER
        for place in self._places:
            self._signal(place, signal.SIGTERM)

    def _reap(self) -> None:
        for place in self._places:
            if not place.pid:
                continue
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                self._on_death(place, os.waitstatus_to_exitcode(status))

    def _on_death(self, place: Place, status: int) -> None:
        now = time.monotonic()
        place.deaths.append(now)
        self._cores.died(place.index)
        delay = refork_delay(place.deaths, now)
        if self._stop_by is None:
            log.error("worker.died", worker=place.name, pid=place.pid, status=status, again_in=delay)
        place.pid, place.due = 0, now + delay
        if place.control:
            self._selector.unregister(place.control)
            place.control.close()
            place.control = None
        self._remove_sockets(place)

    def _fork_those_due(self) -> None:
        if self._stop_by is None:
            for place in self._places:
                if not place.pid and place.due <= time.monotonic():
                    self._fork(place)

    def _kill_those_overdue(self) -> None:
        if self._stop_by is not None and time.monotonic() >= self._stop_by:
            for place in self._places:
                self._signal(place, signal.SIGKILL)

    def _patience(self) -> float | None:
        """Seconds until time alone changes something."""
        now = time.monotonic()
        if self._stop_by is not None:
            return max(self._stop_by - now, 0.01)
        waiting = [place.due - now for place in self._places if not place.pid]
        return max(min(waiting), 0.0) if waiting else None

    def _fork(self, place: Place) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # the child's collector would touch, and so copy, every page of ours
        zygote = os.getpid()
        # Until the child has let go of our handlers, what is meant for it would be lost, and read by us as ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        pid = os.fork()
        if pid == 0:
            self._become(place, zygote, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        theirs.close()
        ours.setblocking(False)
        place.pid, place.control = pid, ours
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_message(place))
        log.info("worker.forked", worker=place.name, pid=pid)

    def _become(self, place: Place, zygote: int, control: socket.socket) -> None:
        """Live as a worker, in the child, and end the process."""
        status = 1
        try:
            end_with_parent(signal.SIGKILL, zygote)
            self._leave_behind()
            if self._config.cpus:
                os.sched_setaffinity(0, self._config.cpus[place.index % len(self._config.cpus)])
            seat = Seat(
                config=self._config,
                name=place.name,
                index=place.index,
                incarnation=secrets.token_hex(6),
                control=control,
                shelf=self._shelf,
                shared_bucket=self._bucket,
                bucket_name=f"{self._config.node}/{zygote}" if self._bucket else "",
                cores=self._cores.share(place.index),
            )
            status = self._live(seat)
        except Exception:  # the border of the process: its log line is all that is left of it
            log.exception("worker.failed", worker=place.name)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # not the zygote's atexit handlers, nor a wait for daemon threads

    def _leave_behind(self) -> None:
        """Close what belongs to the zygote. Until the worker has its own handler SIGTERM ends it: nothing has begun."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        self._selector.close()
        self._signals.close()
        self._signalled.close()
        for place in self._places:
            if place.control:
                place.control.close()

    def _on_message(self, place: Place) -> None:
        if place.control is None:
            return  # its death was seen in the same round
        try:
            message = place.control.recv(MESSAGE_BYTES)
        except (BlockingIOError, ConnectionError):
            return
        if message:
            self._prepare(json.loads(message))
        else:  # its end is closed; SIGCHLD follows
            self._selector.unregister(place.control)
            place.control.close()
            place.control = None

    def _prepare(self, ask: dict[str, str]) -> None:
        """Put a model on the shelf. A model that cannot be built must not take the workers with it."""
        if ask["backbone"] in self._shelf:
            return
        began = time.monotonic()
        try:
            self._shelf.build(open_checkpoint(ask["uri"], ask["dtype"]))
        except Exception:
            log.exception("zygote.prepare_failed", backbone=ask["backbone"], uri=ask["uri"])
            return
        log.info("zygote.prepared", backbone=ask["backbone"], seconds=round(time.monotonic() - began, 3))

    def _signal(self, place: Place, number: signal.Signals) -> None:
        if place.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(place.pid, number)

    def _remove_sockets(self, place: Place) -> None:
        for path in (self._config.socket(place.name, "engine"), self._config.socket(place.name, "hop")):
            path.unlink(missing_ok=True)
