"""What the command line says of a function before and while it runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from forebay_cli.view import View
from forebay_operator.reports import UNKNOWN_RATE
from forebay_worker.device import Device
from local.reference import Reference
from local.system import PATIENCE, System, function, running, write

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


async def test_invoke_answers_from_zero_and_get_shows_what_there_is(
    tmp_path: Path, smollm2: Path, real: Reference
) -> None:
    file = write(tmp_path / "functions.yaml", function("smollm2", smollm2))
    with running(tmp_path / "state", [file], workers=2, link_rate="400MB/s") as system:
        await system.ready(2)
        said = forebay("invoke", "smollm2", PROMPT, "--max-tokens", str(TOKENS), "--state", str(tmp_path / "state"))
        real.check(said.rstrip("\n"), PROMPT, TOKENS, chat=True)
        seen = await system.until(
            lambda seen: (
                seen["functions"][0]["state"] == "Serving"
                and [len(pipeline["stages"]) for pipeline in seen["pipelines"]] == [1]
            ),
            "one worker serves alone",
        )
        got_as_json(system, seen)
        got_as_rows(system, seen)
        await got_as_it_changes(system, file, smollm2)


def got(system: System, kind: str, *words: str) -> str:
    return forebay("get", kind, *words, "--state", str(system.state.folder))


def got_as_json(system: System, seen: View) -> None:
    """With the fields that scripts may count on."""
    backbone = seen["functions"][0]["backbone"]
    (shown,) = json.loads(got(system, "functions", "-o", "json"))
    expected = {"namespace": "default", "name": "smollm2", "backbone": backbone, "state": "Serving", "desired": 1}
    assert {key: shown[key] for key in expected} == expected
    assert {"reason", "ready", "url"} <= set(shown)
    (pipeline,) = json.loads(got(system, "pipelines", "-o", "json"))
    assert (pipeline["epoch"], pipeline["backbone"]) == (seen["pipelines"][0]["epoch"], backbone)
    (stage,) = pipeline["stages"]
    workers = {worker["name"]: worker for worker in json.loads(got(system, "workers", "-o", "json"))}
    assert sorted(workers) == ["w0", "w1"]
    for worker in workers.values():
        assert {"pid", "device", "state", "bytesRead", "residentBytes", "holds"} <= set(worker)
        assert psutil.pid_exists(worker["pid"])
    assert workers[stage["worker"]]["holds"] == {backbone: [*range(stage["first"], stage["last"] + 1)]}


def got_as_rows(system: System, seen: View) -> None:
    """A line of titles and one an item, in the columns that the titles stand over; some of them only when wide."""
    for kind, some, more in (
        (
            "functions",
            {"NAME": "smollm2", "MODEL": seen["functions"][0]["uri"], "STATE": "Serving", "DESIRED": "1"},
            "BACKBONE",
        ),
        ("workers", {"NAME": "w0", "STATE": "Ready"}, "BUDGET"),
        ("pipelines", {"PHASE": "Formed", "EPOCH": seen["pipelines"][0]["epoch"]}, "KV FREE"),
    ):
        titles, *rows = got(system, kind, "-o", "wide").splitlines()
        assert len(rows) == len(seen[kind])
        for title, text in some.items():
            place = titles.index(f"{title}   ")
            assert rows[0][place:].split("   ")[0] == str(text), (kind, title)
        assert more in titles
    assert "BUDGET" not in got(system, "workers").splitlines()[0]


async def got_as_it_changes(system: System, file: Path, model: Path) -> None:
    words = ["get", "functions", "--watch", "--state", str(system.state.folder)]
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forebay_cli", *words, stdout=asyncio.subprocess.PIPE
    )
    assert watching.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            await until_said(watching.stdout, "Serving")
            write(file, function("smollm2", model, replicas=0))
            await until_said(watching.stdout, "Suspended")
    finally:
        watching.terminate()
        await watching.wait()


async def until_said(lines: asyncio.StreamReader, state: str) -> None:
    """Until a row has that state."""
    while f" {state} " not in (line := (await lines.readline()).decode()):
        assert line, f"it ended, and no row said {state}"
