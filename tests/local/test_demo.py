"""`make demo` and `make up`, ended while they run: in good order, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from local.system import PATIENCE, free_port, wait_for


@contextmanager
def demo(folder: Path, *words: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """It, in a process group of its own as under a shell, and the file of what it says."""
    said = folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "forebay_cli.demo", *words],
            cwd=folder,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
            env={**os.environ, "FOREBAY_STATE": str(folder / "state"), "PYTHONUNBUFFERED": "1", **environ},
        )
        try:
            yield process, said
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize(
    ("words", "number", "status"),
    [
        ((), signal.SIGINT, 130),
        ((), signal.SIGTERM, 143),
        (("--stay",), signal.SIGINT, 0),
        (("--stay",), signal.SIGTERM, 0),
    ],
)
def test_a_signal_while_it_warms_up(
    tmp_path: Path, smollm2: Path, words: tuple[str, ...], number: signal.Signals, status: int
) -> None:
    words = (*words, "--port", str(free_port()))
    with demo(tmp_path, *words, FOREBAY_MODELS=str(smollm2.parent)) as (process, said):
        wait_for(lambda: "forebay is ready at" in said.read_text() or process.poll() is not None, "it is ready")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, said.read_text()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        assert process.wait(PATIENCE) == status, said.read_text()
        assert not [child for child in children if child.is_running()]
        assert "Traceback" not in said.read_text()
        assert said.read_text().endswith("▸ stopped; nothing is left running\n")


def test_a_signal_while_the_model_is_made(tmp_path: Path) -> None:
    with demo(tmp_path, FOREBAY_MODELS=str(tmp_path / "models")) as (process, said):
        wait_for(lambda: [*(tmp_path / "models").glob(".*")] or process.poll() is not None, "it is being made")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, said.read_text()
        process.terminate()
        assert process.wait(PATIENCE) == 143, said.read_text()
        assert not [child for child in children if child.is_running()]
        assert [*(tmp_path / "models").iterdir()] == [], "what was half made is removed"
