"""What `kubectl get -w` shows while something happens."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.kube import PATIENCE


@dataclass
class Watched:
    """Lines as they come, without repetitions."""

    lines: list[str] = field(default_factory=list)
    _new: queue.Queue[str] = field(default_factory=queue.Queue)

    def until(self, wanted: str, limit: float = PATIENCE) -> None:
        """Return once ``wanted`` is the last line; fails after ``limit`` seconds."""
        end = time.monotonic() + limit
        while not self.lines or self.lines[-1] != wanted:
            try:
                line = self._new.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{wanted!r} never came in {limit:g} s; lines: {self.lines}") from None
            if not self.lines or self.lines[-1] != line:
                self.lines.append(line)

    def seen(self) -> list[str]:
        """All lines that have come."""
        while True:
            try:
                self.lines.append(self._new.get_nowait())
            except queue.Empty:
                return self.lines

    def put(self, line: str) -> None:
        self._new.put(line)


def states(name: str, namespace: str) -> contextlib.AbstractContextManager[Watched]:
    """The states of a function while the block runs."""
    return _watched(name, namespace, "--no-headers", "-o", "custom-columns=S:.status.state")


def placements(name: str, namespace: str) -> contextlib.AbstractContextManager[Watched]:
    """The stages of a function while the block runs: their epochs, and in the same order their nodes."""
    columns = "E:.status.placements[*].epoch,N:.status.placements[*].node"
    return _watched(name, namespace, "--no-headers", "-o", f"custom-columns={columns}")


@contextlib.contextmanager
def _watched(name: str, namespace: str, *output: str) -> Iterator[Watched]:
    command = ("kubectl", "get", "llmfn", name, "-n", namespace, "-w", *output)
    watched = Watched()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout
        assert output is not None

        def read() -> None:
            for line in output:
                watched.put(line.strip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield watched
        finally:
            process.terminate()
            reader.join(timeout=10)
