"""What the command line says of a function before and while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forebay_operator.reports import UNKNOWN_RATE
from forebay_worker.device import Device
from local.reference import Reference
from local.system import PATIENCE, function, running, write

PROMPT, TOKENS = "Name a colour.", 8
Tiny = Callable[[str], Path]
LINKS = ("--workers", "4", "--link-rate", "50MB/s", "--device", "cpu")


def forebay(*words: str) -> str:
    said = subprocess.run(
        [sys.executable, "-m", "forebay_cli", *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_plan_says_who_would_load_what_and_when_it_would_answer(tmp_path: Path, smollm2: Path) -> None:
    file = write(tmp_path / "functions.yaml", function("smollm2", smollm2))
    (planned,) = json.loads(forebay("plan", "-f", str(file), *LINKS, "-o", "json"))
    stages, predicted = planned["stages"], planned["predicted"]
    assert len({stage["worker"] for stage in stages}) == 4
    memory = Device.open("cpu", None, 0, workers=4).memory.budget
    assert {stage["memoryBytes"] for stage in stages} == {memory}, "what workers take that are told nothing"
    assert [stage["first"] for stage in stages[1:]] == [stage["last"] + 1 for stage in stages[:-1]]
    seconds = (smollm2 / "model.safetensors").stat().st_size / 50e6
    assert seconds / 4 < predicted["servable"] < 0.35 * seconds
    assert predicted["servable"] < predicted["firstToken"] + 0.5
    wide = forebay("plan", "-f", str(file), *LINKS, "-o", "wide")
    assert all(stage["worker"] in wide for stage in stages)


def test_plan_takes_links_of_no_stated_rate_for_what_the_operator_takes_them_for(tmp_path: Path, tiny: Tiny) -> None:
    file = write(tmp_path / "functions.yaml", function("tiny", tiny("llama")))
    (planned,) = json.loads(forebay("plan", "-f", str(file), "--device", "cpu", "-o", "json"))
    assert planned["predicted"]["servable"] == pytest.approx(planned["totalBytes"] / UNKNOWN_RATE)


async def test_invoke_answers_from_zero(tmp_path: Path, smollm2: Path, real: Reference) -> None:
    file = write(tmp_path / "functions.yaml", function("smollm2", smollm2))
    with running(tmp_path / "state", [file], workers=2, link_rate="400MB/s") as system:
        await system.ready(2)
        said = forebay("invoke", "smollm2", PROMPT, "--max-tokens", str(TOKENS), "--state", str(tmp_path / "state"))
    real.check(said.rstrip("\n"), PROMPT, TOKENS, chat=True)
