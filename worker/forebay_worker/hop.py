"""Frames between neighbouring stages, over unix or TCP sockets: one connection per pipeline and receiving stage.

    sender                                             receiver
    device thread ── header + payload, one sendmsg ──▶ reader thread ──▶ Executor.step()
    pulse thread  ── a heartbeat each second ────────▶      (silent for three seconds: gone)
          ▲──────── end of file: gone ───────────────────── closed with its pipeline

Heartbeats have a thread of their own, so that a neighbour that computes for long is not taken for a dead one. Both ends
of a connection see it end within milliseconds, and a pipeline is a ring: one broken connection reaches every stage.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import torch
from prometheus_client import Counter

from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker.frame import HopLost, epoch_message, read, write

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
FORM_SECONDS = 3.0  # how long a frame waits until somebody speaks of its pipeline
PREPARE_SECONDS = 60.0  # and how long for one that is announced: its skeleton may have to be built first
EARLY_FRAMES = 64  # of a connection that waits; the sender's device thread must not be held by a full socket
LOOK_SECONDS = 0.02
SEND_SECONDS = 10.0
CONNECT_SECONDS = 2.0
REMEMBERED = 1024  # dissolved pipelines whose late frames are refused at once
INBOUND = 512  # connections at once, each with a thread; a pipeline has one at each stage

frames_total = Counter("forebay_hop_frames_total", "Frames sent to the next stage, without heartbeats")
bytes_total = Counter("forebay_hop_bytes_total", "Bytes sent to the next stage, without heartbeats")
turned_away_total = Counter("forebay_hop_connections_refused_total", "Connections over the limit of inbound ones")


@dataclass(frozen=True, slots=True)
class Key:
    """What a connection is for: the pipeline, and the stage that receives."""

    epoch: Epoch
    stage: int

    @classmethod
    def of(cls, frame: stage_pb2.Frame) -> Key:
        return cls(Epoch(frame.epoch.term, frame.epoch.counter), frame.stage)


@dataclass(frozen=True, slots=True)
class Peer:
    """Where the receiving worker listens for frames; an empty address is not offered."""

    unix: str
    tcp: str

    def __str__(self) -> str:
        return self.unix or self.tcp


class Hop:
    """A connection to the next stage of one pipeline. ``lost`` is called once, unless we close it ourselves."""

    def __init__(self, key: Key, peer: Peer, lost: Callable[[Key, str], None]) -> None:
        self._key = key
        self._peer = peer
        self._lost = lost
        self.frames = 0
        self.bytes = 0  # heartbeats not counted
        self._sending = threading.Lock()
        self._ready = threading.Event()
        self._closed = False
        self._sock: socket.socket | None = None
        self._thread = threading.Thread(target=self._pulse, name=f"hop-{key.epoch}-{key.stage}", daemon=True)
        self._thread.start()

    def send(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        """Blocks until the frame is with the kernel, at most SEND_SECONDS. Raises HopLost."""
        if not self._ready.wait(CONNECT_SECONDS) or self._sock is None:
            raise HopLost(f"no connection to {self._peer}")
        try:
            with self._sending:
                size = write(self._sock, frame, tensor)
        except OSError as error:  # a timeout too
            raise HopLost(f"sending to {self._peer} failed: {error}") from error
        self.frames += 1
        self.bytes += size
        frames_total.inc()
        bytes_total.inc(size)

    def close(self) -> None:
        """Idempotent; both sides see the end of the connection."""
        self._closed = True
        sock = self._sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _pulse(self) -> None:
        try:
            sock = _connect(self._peer)
        except (OSError, ValueError) as error:  # ValueError: not an address
            self._ready.set()
            self._tell(f"cannot reach {self._peer}: {error}")
            return
        sock.settimeout(SEND_SECONDS)
        self._sock = sock
        self._ready.set()
        reason = self._beat(sock)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes a send that hangs, which holds the lock
        with self._sending:
            sock.close()
        self._tell(reason)

    def _beat(self, sock: socket.socket) -> str:
        """Heartbeats until the connection ends; returns why it did."""
        frame = stage_pb2.Frame(epoch=epoch_message(self._key.epoch), stage=self._key.stage, heartbeat=True)
        ended = select.poll()
        ended.register(sock, select.POLLIN)
        while not self._closed:
            try:
                if self._sending.acquire(blocking=False):  # a frame on its way is as good as a heartbeat
                    try:
                        write(sock, frame, None)
                    finally:
                        self._sending.release()
            except OSError as error:
                return f"heartbeat to {self._peer} failed: {error}"
            if ended.poll(HEARTBEAT_SECONDS * 1000):
                return f"{self._peer} closed the connection"  # receivers never send
        return "closed"

    def _tell(self, reason: str) -> None:
        if not self._closed:
            self._lost(self._key, reason)


def _connect(peer: Peer) -> socket.socket:
    """Unix where the socket is reachable from here, else TCP. Raises OSError."""
    if peer.unix and Path(peer.unix).exists():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_SECONDS)
            sock.connect(peer.unix)
        except OSError:
            sock.close()
            if not peer.tcp:
                raise
        else:
            return sock
    if not peer.tcp:
        raise FileNotFoundError(f"no socket at {peer.unix}, and no TCP address")
    host, _, port = peer.tcp.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@dataclass
class _Known:
    """Which pipelines are expected here. Guarded by ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    keys: set[Key] = field(default_factory=set)
    announced: set[Key] = field(default_factory=set)
    gone: OrderedDict[Key, None] = field(default_factory=OrderedDict)
    inbound: dict[Key, set[socket.socket]] = field(default_factory=dict)


Message = tuple[stage_pb2.Frame, torch.Tensor | None]
Deliver = Callable[[stage_pb2.Frame, torch.Tensor | None], None]
Lost = Callable[[Key, str], None]


class Hops:
    """Listens for neighbours, and connects to them."""

    def __init__(self, deliver: Deliver, lost: Lost, *, unix: str = "", tcp: str = "") -> None:
        """Listens at once; ``tcp`` is "host:port", port 0 for any. Raises OSError when an address is taken.

        ``deliver`` gets each frame, on its connection's reader thread; ``lost`` is told when a connection of an
        expected pipeline ended, in or out. Neither may block.
        """
        self._deliver = deliver
        self._lost = lost
        self._known = _Known()
        self._room = threading.BoundedSemaphore(INBOUND)
        self._stopping = False
        self._listeners: list[socket.socket] = []
        self.unix = unix
        self.tcp = ""
        if unix:
            Path(unix).unlink(missing_ok=True)
            self._listen(socket.AF_UNIX, unix)
        if tcp:
            host, _, port = tcp.rpartition(":")
            listener = self._listen(socket.AF_INET, (host, int(port)))
            self.tcp = f"{host}:{listener.getsockname()[1]}"

    def announce(self, key: Key) -> None:
        """``key`` will be expected or refused before long: its frames wait for that."""
        with self._known.changed:
            if key not in self._known.gone:
                self._known.announced.add(key)
                self._known.changed.notify_all()

    def expect(self, key: Key) -> None:
        """Frames of ``key`` are taken from now on, also those that have been waiting for this. Not after ``refuse``."""
        with self._known.changed:
            self._known.announced.discard(key)
            if key not in self._known.gone:
                self._known.keys.add(key)
            self._known.changed.notify_all()

    def refuse(self, key: Key) -> None:
        """Frames of ``key`` are refused from now on, and its connections to us are closed."""
        with self._known.changed:
            self._known.keys.discard(key)
            self._known.announced.discard(key)
            self._known.gone[key] = None
            while len(self._known.gone) > REMEMBERED:
                self._known.gone.popitem(last=False)
            self._known.changed.notify_all()
            for sock in self._known.inbound.get(key, ()):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def connect(self, key: Key, peer: Peer) -> Hop:
        """A connection to stage ``key.stage``; made in the background, ``lost`` is told when it cannot be."""
        return Hop(key, peer, self._lost)

    def close(self) -> None:
        """Stop listening and close what came in."""
        self._stopping = True
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self.unix:
            Path(self.unix).unlink(missing_ok=True)
        for key in tuple(self._known.inbound):
            self.refuse(key)

    def _listen(self, family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        listener.listen(64)
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener,), name="hop-accept", daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._stopping:
                    return
                log.warning("accepting a neighbour failed", phase="hop", exc_info=True)
                time.sleep(0.1)  # out of descriptors, most likely
                continue
            if not self._room.acquire(blocking=False):
                turned_away_total.inc()
                log.warning("too many neighbours", phase="hop", limit=INBOUND)
                sock.close()
                continue
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(SILENCE_SECONDS)
            threading.Thread(target=self._serve, args=(sock,), name="hop-reader", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        """Reads one connection to its end. All its frames are of one pipeline and stage."""
        key: Key | None = None
        with sock:
            try:
                first = read(sock)
                key = Key.of(first[0])
                waiting = deque([first])
                self._admit(key, sock, waiting)
                while True:
                    frame, tensor = waiting.popleft() if waiting else read(sock)
                    if Key.of(frame) != key:
                        raise HopLost(f"a frame of {Key.of(frame)} on the connection of {key}")
                    if not frame.heartbeat:
                        self._deliver(frame, tensor)
            except HopLost as error:
                self._end(key, sock, str(error))
            finally:
                self._room.release()

    def _admit(self, key: Key, sock: socket.socket, waiting: deque[Message]) -> None:
        """Waits until the pipeline is expected here; what comes meanwhile is ``waiting``. Raises HopLost when it is not
        expected, or not any more."""
        known, began = self._known, time.monotonic()
        more = select.poll()
        more.register(sock, select.POLLIN)
        while True:
            with known.changed:
                known.changed.wait_for(lambda: key in known.keys or key in known.gone, LOOK_SECONDS)
                patience = PREPARE_SECONDS if key in known.announced else FORM_SECONDS
                if key in known.keys:
                    known.inbound.setdefault(key, set()).add(sock)
                    return
                if key in known.gone or time.monotonic() - began > patience:
                    raise HopLost(f"no pipeline {key.epoch} with stage {key.stage} here")
            if len(waiting) < EARLY_FRAMES and more.poll(0):
                waiting.append(read(sock))

    def _end(self, key: Key | None, sock: socket.socket, reason: str) -> None:
        if key is None:
            log.info("a connection ended before its first frame", phase="hop", reason=reason)
            return
        with self._known.changed:
            socks = self._known.inbound.get(key, set())
            socks.discard(sock)
            if not socks:
                self._known.inbound.pop(key, None)
            expected = key in self._known.keys
        if expected:
            self._lost(key, f"from the stage before: {reason}")
        else:
            log.info("frames refused", phase="hop", epoch=str(key.epoch), reason=reason)
