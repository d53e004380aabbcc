"""A place in the test bed: a process that holds a network and a mount namespace, and the ways in.

When the holder ends, the kernel takes away its interfaces, rules and mounts: nothing of a place stays on the machine.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from testbed.daemons import Daemons
from testbed.shell import Failed, ran, run

STARTING = 10.0


class Place:
    """``name`` also begins the names of its daemons."""

    def __init__(self, name: str, daemons: Daemons, programs: Path) -> None:
        self.name, self.daemons, self.programs = name, daemons, programs
        self.holder = f"{name}/holder"

    @property
    def pid(self) -> int | None:
        return self.daemons.pid(self.holder)

    @property
    def inside(self) -> list[object]:
        """What to put before a command so that it runs here. `ip netns exec` would hide the cgroups; nsenter does not.
        It changes the working directory to /."""
        if self.pid is None:
            raise Failed(f"{self.name} is not up")
        return ["nsenter", "-t", self.pid, "-n", "-m", "--"]

    def make(self) -> None:
        hold = ["unshare", "--net", "--mount", "--propagation", "private", "sleep", "infinity"]
        self.daemons.start(self.holder, hold)
        # The namespaces are there once unshare has become sleep.
        self.daemons.wait(self.holder, lambda: _comm(self.pid) == "sleep", STARTING)
        self.run("ip", "link", "set", "lo", "up")
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def run(self, *command: object, limit: float = 60.0) -> str:
        """What ``command`` printed here; raises `Failed`."""
        return run(*self.inside, *command, limit=limit)

    def ran(self, *command: object, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
        return ran(*self.inside, *command, limit=limit)

    def start(self, name: str, program: object, *arguments: object, path: str = "") -> None:
        """Start a daemon here, found in the folder of programs or in PATH."""
        own = self.programs / str(program)
        env = {"PATH": path} if path else None
        self.daemons.start(name, [*self.inside, own if own.exists() else program, *arguments], env)

    def answers(self, url: str, *options: object) -> bool:
        """Whether a GET here is answered with a 2xx within two seconds."""
        return self.ran("curl", "-sf", "-m", "2", "-o", "/dev/null", *options, url).returncode == 0

    def unmake(self) -> None:
        self.daemons.stop(self.holder)
        time.sleep(0.1)  # the kernel takes the namespaces down on its own time


def _comm(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
