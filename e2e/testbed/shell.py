"""Running a program with a limit, and saying well what it said when it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LIMIT = 60.0
"""Seconds that a program may take unless its caller says otherwise."""


class Failed(RuntimeError):
    """A program or a check failed; the text is for the person at the terminal."""


def ran(
    *command: object, limit: float = LIMIT, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of ``command``; raises `Failed` only if it took longer than ``limit`` seconds."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=limit, env=env, input=stdin, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{_shown(words)}: not done after {limit:g} s") from error


def run(*command: object, limit: float = LIMIT, env: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
    """What ``command`` printed; raises `Failed` if it failed or took longer than ``limit`` seconds."""
    done = ran(*command, limit=limit, env=env, stdin=stdin)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise Failed(f"{_shown([str(word) for word in command])}: exit {done.returncode}: {said}")
    return done.stdout


def shown(command: Sequence[object], *, cwd: Path | None = None, limit: float, env: Mapping[str, str] | None) -> None:
    """Run ``command`` with its output on the terminal; raises `Failed` as `run` does."""
    words = [str(word) for word in command]
    sys.stdout.flush()
    try:
        done = subprocess.run(words, cwd=cwd, timeout=limit, env=env, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{_shown(words)}: not done after {limit:g} s") from error
    if done.returncode:
        raise Failed(f"{_shown(words)}: exit {done.returncode}")


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)[:300]
