"""Finding a running system: the state folder and the files that its processes leave there."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from forebay_api import local


class NothingRuns(Exception):
    """No live process has left its file in the state folder."""


class Untrusted(NothingRuns):
    """Others can put files into the state folder, or have made it: in /tmp anybody may."""


@dataclass(frozen=True, slots=True)
class State:
    """A state folder, and what can be read there."""

    folder: Path

    @classmethod
    def find(cls, given: Path | None) -> State:
        return cls((given or Path(local.default_state(os.environ, os.getuid()))).absolute())

    def make(self) -> None:
        """So that nobody else has anything to say there. Raises Untrusted and OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check()

    def check(self) -> None:
        """Raises Untrusted, and OSError where there is no such folder."""
        found = self.folder.lstat()
        if stat.S_ISLNK(found.st_mode):
            wrong, right = "is a symbolic link", "name what it points to"
        elif found.st_uid != os.getuid():
            wrong, right = f"belongs to user {found.st_uid}, not to {os.getuid()}", "name one of your own"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(found.st_mode)
            wrong, right = f"can be written by others (mode {mode:o})", "chmod go-w it, or name another one"
        else:
            return
        raise Untrusted(f"the state folder {self.folder} {wrong}: {right} with --state or FOREBAY_STATE")

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
            self.check()
            found: dict[str, object] = json.loads(path.read_text())
            os.kill(int(str(found["pid"])), 0)
        except (OSError, ValueError, KeyError):
            where = "name its folder with --state or FOREBAY_STATE"
            raise NothingRuns(f"nothing runs in {self.folder}: start it with `forebay up`, or {where}") from None
        return found
