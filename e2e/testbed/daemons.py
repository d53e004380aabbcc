"""Daemons known by name across commands: what was started, whether it still runs, its log, and stopping it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.shell import Failed

GRACE = 10.0
"""Seconds between asking a daemon to end and ending it."""
PAUSE = 0.05
LAST_LINES = 15


@dataclass(frozen=True)
class Daemons:
    """Daemons of one state folder. A process is known by pid and start time, as pids come again."""

    state: Path

    def log(self, name: str) -> Path:
        return self._file("logs", name, "log")

    def start(self, name: str, command: Sequence[object], env: Mapping[str, str] | None = None) -> None:
        """Start ``command`` in a session of its own unless it runs; it outlives this process."""
        if self.pid(name) is not None:
            return
        words = [str(word) for word in command]
        self._file("run", name, "json").write_text(json.dumps({"command": words, "env": dict(env or {})}))
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not a Popen: that expects to be waited for, and this one outlives us.
        pid = os.posix_spawnp(
            words[0],
            words,
            {**os.environ, **(env or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._file("run", name, "pid").write_text(f"{pid} {_stat(pid)[19]}")

    def start_again(self, name: str) -> None:
        """Start what was stopped, as it was; raises `Failed` for a name that was never started."""
        saved = self._file("run", name, "json")
        if not saved.exists():
            raise Failed(f"{name}: never started; there are {', '.join(self.names())}")
        before = json.loads(saved.read_text())
        self.start(name, before["command"], before["env"])

    def pid(self, name: str) -> int | None:
        """The process's id while it runs."""
        try:
            pid, started = self._file("run", name, "pid").read_text().split()
            now = _stat(int(pid))
        except (OSError, ValueError):
            return None
        return int(pid) if now[19] == started and now[0] != "Z" else None

    def send(self, name: str, number: signal.Signals) -> None:
        """Raises `Failed` if the daemon does not run."""
        pid = self.pid(name)
        if pid is None:
            raise Failed(f"{name} does not run; there are {', '.join(self.names())}")
        os.kill(pid, number)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, grace: float = GRACE) -> None:
        """Send ``number``, then SIGKILL after ``grace`` seconds; returns when the process is gone."""
        pid, killed_at = self.pid(name), time.monotonic() + grace
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # a stopped process takes no SIGTERM
                os.kill(pid, number)
        while self.pid(name) is not None:
            if time.monotonic() > killed_at + GRACE:
                raise Failed(f"{name} (process {pid}) does not end even by SIGKILL")
            if pid is not None and time.monotonic() > killed_at:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(PAUSE)
        self._file("run", name, "pid").unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Everything that was started and not stopped."""
        run = self.state / "run"
        return sorted(str(path.relative_to(run).with_suffix("")) for path in run.rglob("*.pid"))

    def wait(self, name: str, up: Callable[[], bool], limit: float = 90.0) -> None:
        """Return when ``up``; raises `Failed` with the end of the log if it ends first or takes ``limit`` seconds."""
        end = time.monotonic() + limit
        while time.monotonic() < end and self.pid(name) is not None:
            if up():
                return
            time.sleep(PAUSE)
        ended = "" if self.pid(name) is not None else ": it ended"
        last = self.log(name).read_text(errors="replace").splitlines()[-LAST_LINES:]
        raise Failed("\n".join([f"{name} did not come up within {limit:g} s{ended}", *last]))

    def _file(self, folder: str, name: str, kind: str) -> Path:
        path = self.state / folder / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
