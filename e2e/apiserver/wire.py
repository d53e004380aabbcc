"""The wire between an operator and its API server, to be cut and to fall silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

LARGEST = 1 << 16


class Wire:
    """Passes bytes on between ``port`` and ``target`` on loopback."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._passing: list[_Pair] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Both ends learn that what is connected now is no longer."""
        for pair in self._taken():
            pair.close()

    def fall_silent(self) -> None:
        """Nobody learns anything: what is connected now stays so, and no byte comes from the API server any more."""
        for pair in self._taken():
            pair.silent = True

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # or accept would go on
        self._server.close()
        self.cut()

    def _taken(self) -> list[_Pair]:
        with self._lock:
            return list(self._passing)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:  # it is away: the caller learns it
                    near.close()
                    continue
                far.settimeout(None)
                pair = _Pair(near, far)
                with self._lock:
                    self._passing = [known for known in self._passing if not known.ended] + [pair]
                pair.start()


class _Pair:
    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._near, self._far = near, far
        self.silent = self.ended = False
        self._lock, self._left = threading.Lock(), 2

    def start(self) -> None:
        threading.Thread(target=self._pass, args=(self._near, self._far), daemon=True).start()
        threading.Thread(target=self._pass, args=(self._far, self._near), daemon=True).start()

    def close(self) -> None:
        self.ended = True
        for end in (self._near, self._far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while said := source.recv(LARGEST):
                if not (self.silent and source is self._far):
                    sink.sendall(said)
        if not self.silent:  # not even that it ended
            self.close()
        with self._lock:
            self._left -= 1
            if not self._left:
                self._near.close()
                self._far.close()


@contextlib.contextmanager
def wired(target: int) -> Iterator[Wire]:
    wire = Wire(target)
    try:
        yield wire
    finally:
        wire.close()
