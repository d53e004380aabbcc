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

    def put(self, line: str) -> None:
        self._new.put(line)


@contextlib.contextmanager
def states(name: str, namespace: str) -> Iterator[Watched]:
    """The states of a function while the block runs."""
    command = (
        "kubectl", "get", "llmfn", name, "-n", namespace, "-w", "--no-headers", "-o", "custom-columns=S:.status.state",
    )  # fmt: skip
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
