"""kubectl as a person types it, against the API server of `plane`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from plane import BINARIES

CALL_SECONDS = 30


def program() -> str | None:
    """The test bed's kubectl, else the machine's."""
    own = BINARIES / "kubectl"
    return str(own) if own.is_file() else shutil.which("kubectl")


@dataclass(frozen=True)
class Kubectl:
    program: str
    kubeconfig: Path

    def __call__(self, *args: str, bodies: Sequence[object] = ()) -> subprocess.CompletedProcess[str]:
        """``bodies`` are the documents that kubectl reads from its standard input."""
        return subprocess.run(
            [self.program, f"--kubeconfig={self.kubeconfig}", *args],
            input=yaml.safe_dump_all(bodies) if bodies else None,
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS,
            check=False,
        )

    def apply(self, *bodies: object, manager: str = "kubectl", subresource: str = "") -> str:
        """What kubectl says to a server-side apply under strict validation: its output and its errors."""
        extra = [f"--subresource={subresource}"] if subresource else []
        apply = ("apply", "--server-side", "--validate=strict", f"--field-manager={manager}", *extra, "-f", "-")
        said = self(*apply, bodies=bodies)  # as documents: inside a List kubectl would validate by itself
        return said.stdout + said.stderr

    def get(self, *args: str) -> Any:
        said = self("get", *args, "-o", "json")
        assert said.returncode == 0, said.stderr
        return json.loads(said.stdout)
