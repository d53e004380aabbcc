"""Finding a running system: the state folder and the files that its processes leave there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from forebay_api import local


class NothingRuns(Exception):
    """No live process has left its file in the state folder."""


@dataclass(frozen=True, slots=True)
class State:
    """A state folder, and what can be read there."""

    folder: Path

    @classmethod
    def find(cls, given: Path | None) -> State:
        return cls((given or Path(local.default_state(os.environ, os.getuid()))).absolute())

    def operator(self) -> str:
        """gRPC target of the operator. Raises NothingRuns."""
        return str(self._live(local.OPERATOR_FILE)["address"])

    def gateway(self) -> str:
        """Base URL of the gateway. Raises NothingRuns."""
        return str(self._live(local.GATEWAY_FILE)["url"])

    def runs(self) -> bool:
        try:
            self.operator()
        except NothingRuns:
            return False
        return True

    def _live(self, name: str) -> dict[str, object]:
        path = self.folder / name
        try:
            found: dict[str, object] = json.loads(path.read_text())
            os.kill(int(str(found["pid"])), 0)
        except (OSError, ValueError, KeyError):
            where = "name its folder with --state or FOREBAY_STATE"
            raise NothingRuns(f"nothing runs in {self.folder}: start it with `forebay up`, or {where}") from None
        return found
