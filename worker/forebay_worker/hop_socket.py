"""The hop inside a node: frames over a unix socket, written by the device thread itself.

    sender                                             receiver
    device thread ── header + payload, one sendmsg ──▶ reader thread ──▶ Inbound
    pulse thread  ── a heartbeat each second ────────▶      (silent for three seconds: gone)
          ▲──────── end of file: gone ───────────────────── closed with its pipeline

Heartbeats have a thread of their own, so that a neighbour that computes for long is not taken for a dead one.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
import torch

from forebay_wire.v1 import stage_pb2
from forebay_worker.frame import HopLost, read, write
from forebay_worker.hop_inbound import Inbound, Visit
from forebay_worker.hop_peer import Key, Lost, Pace, bytes_total, frames_total

log = structlog.get_logger(__name__)

SEND_SECONDS = 10.0
BACKLOG = 64


def dial(path: str) -> socket.socket | None:
    """A connection to the socket at ``path``; None when there is none, or nobody listens on this node (a folder that
    nodes share shows the sockets of all). Never waits."""
    if not path or not Path(path).exists():
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError:
        sock.close()
        return None
    sock.settimeout(SEND_SECONDS)
    return sock


class SocketHop:
    """A Hop over ``sock``, which it owns. ``send`` blocks until the frame is with the kernel, at most SEND_SECONDS."""

    def __init__(self, key: Key, path: str, sock: socket.socket, lost: Lost, pace: Pace) -> None:
        self._key = key
        self._path = path
        self._sock = sock
        self._lost = lost
        self._pace = pace
        self.frames = 0
        self.bytes = 0
        self._sending = threading.Lock()
        self._closed = False
        threading.Thread(target=self._pulse, name=f"hop-{key.epoch}-{key.stage}", daemon=True).start()

    def send(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        try:
            with self._sending:
                size = write(self._sock, frame, tensor)
        except OSError as error:  # a timeout too
            raise HopLost(f"sending to {self._path} failed: {error}") from error
        self.frames += 1
        self.bytes += size
        frames_total.inc()
        bytes_total.inc(size)

    def close(self) -> None:
        self._closed = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _pulse(self) -> None:
        reason = self._beat()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes a send that hangs, which holds the lock
        with self._sending:
            self._sock.close()
        if not self._closed:
            self._lost(self._key, reason)

    def _beat(self) -> str:
        """Heartbeats until the connection ends; returns why it did."""
        frame = self._key.heartbeat()
        ended = select.poll()
        ended.register(self._sock, select.POLLIN)
        while not self._closed:
            try:
                if self._sending.acquire(blocking=False):  # a frame on its way is as good as a heartbeat
                    try:
                        write(self._sock, frame, None)
                    finally:
                        self._sending.release()
            except OSError as error:
                return f"heartbeat to {self._path} failed: {error}"
            if ended.poll(self._pace.heartbeat * 1000):
                return f"{self._path} closed the connection"  # receivers never send
        return "closed"


class SocketListener:
    """Takes in neighbours at ``path``, from now on. Raises OSError when it cannot."""

    def __init__(self, path: str, inbound: Inbound, pace: Pace) -> None:
        self._path = Path(path)
        self._inbound = inbound
        self._pace = pace
        self._stopping = False
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(path)
        except OSError:
            self._listener.close()
            raise
        self._listener.listen(BACKLOG)
        threading.Thread(target=self._accept, name="hop-accept", daemon=True).start()

    def close(self) -> None:
        """Stop listening; who came in stays."""
        self._stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._stopping:
                    return
                log.warning("accepting a neighbour failed", phase="hop", exc_info=True)
                time.sleep(0.1)  # out of descriptors, most likely
                continue
            sock.settimeout(self._pace.silence)
            try:
                visit = self._inbound.enter(lambda sock=sock: _shut(sock))  # type: ignore[misc]
            except HopLost as error:
                log.warning("a neighbour was turned away", phase="hop", reason=str(error))
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock, visit), name="hop-reader", daemon=True).start()

    def _serve(self, sock: socket.socket, visit: Visit) -> None:
        """Reads one connection to its end."""
        with sock:
            try:
                while True:
                    self._inbound.take(visit, *read(sock))
            except HopLost as error:
                self._inbound.leave(visit, str(error))


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
