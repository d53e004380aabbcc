"""The verbs of the command line: what is wrong is one clear line, and a watch outlives the operator."""

from __future__ import annotations

import asyncio
import builtins
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.conftest import System
from control.operators import function
from forebay_cli import __main__ as command_line
from forebay_cli import coldstart, invoke, view
from forebay_cli.state import NothingRuns, State
from forebay_cli.up import watched
from forebay_operator.files import LoadedFunctions

GOOD = "apiVersion: forebay.dev/v1alpha1\nkind: LLMFunction\nmetadata: {name: a}\nspec: {model: {uri: file:///m/a}}\n"
START = {
    "namespace": "default",
    "name": "a",
    "epoch": "1.1",
    "queuedAt": 10.0,
    "plannedAt": 10.1,
    "predicted": {"servable": 1.0, "firstToken": 2.0, "promptTokens": 8},
    "stages": [{"worker": "w0", "first": 0, "last": 1}],
    "units": [
        {"worker": "w0", "unit": 0, "kind": "layer", "askedAt": 10.2, "landedAt": 10.4, "bytes": 7},
        {"worker": "w0", "unit": 1, "kind": "head", "askedAt": 10.4, "landedAt": None, "bytes": 3},
    ],
    "firstByteAt": 10.2,
    "servableAt": None,
    "firstTokenAt": None,
    "consolidatedAt": None,
}


def forebay(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run one verb here; its exit status."""
    monkeypatch.setattr(sys, "argv", ["forebay", *words])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(str(ended.value.code))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("up", "--file"),
        ("up -f {0}/none.yaml", "none.yaml: there is no such file"),
        ("up -f {0}/broken.yaml", "broken.yaml:1"),
        ("up -f {0}/good.yaml --state {0}/file", "--state"),
        ("up -f {0}/good.yaml --state {0}/file/below", "file/below cannot be written (Not a directory)"),
        ("up -f {0}/good.yaml --state {0}/{long}", "choose a shorter path"),
        ("up -f {0}/good.yaml --port 99999", "65535"),
        ("up -f {0}/good.yaml --workers 0", "0 is not a number of workers: between 1 and 64"),
        ("up -f {0}/good.yaml --device tpu", "auto, cpu or cuda"),
        ("worker --count 0", "0 is not a number of workers: between 1 and 64"),
        ("plan -f {0}/empty", "no LLMFunction"),
        ("get things --state {0}/empty", "'kind': 'things' is not one of 'functions'"),
        ("get functions --state {0}/empty", "start it with `forebay up`"),
        ("get functions --watch --state {0}/empty", "start it with `forebay up`"),
        ("invoke a hello --state {0}/empty", "start it with `forebay up`"),
        ("timeline --state {0}/empty", "start it with `forebay up`"),
        ("timeline -o picture.txt --state {0}/empty", "must end with .json"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    words: str, named: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("FOREBAY_")]:
        monkeypatch.delenv(name)
    assert forebay(words.format(folder, long="x" * 120).split(), monkeypatch) == 2
    said = capsys.readouterr()
    assert named in said.err
    assert said.err.startswith("forebay: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def found(start: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an operator ran that has seen this cold start."""

    async def look(_target: str) -> view.View:
        return {"coldStarts": [start]}

    monkeypatch.setattr(view, "look", look)
    monkeypatch.setattr(State, "operator", lambda _state: "unix:/none")


def test_a_timeline_is_a_chrome_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found(START, monkeypatch)
    assert forebay(["timeline", "-o", str(tmp_path / "trace.json")], monkeypatch) == 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {"X", "M", "i"} == {event["ph"] for event in events}
    assert all(isinstance(event["ts"], int) and event["ts"] >= 0 for event in events if event["ph"] in "Xi")
    (loaded,) = [event for event in events if event["ph"] == "X"]
    assert (loaded["ts"], loaded["dur"], loaded["args"]) == (200_000, 200_000, {"bytes": 7})


def test_a_timeline_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(START, monkeypatch)
    assert forebay(["timeline", "-o", str(tmp_path / "no" / "trace.json")], monkeypatch) == 2
    assert "trace.json: cannot be written (No such file or directory)" in capsys.readouterr().err
    assert forebay(["timeline", "nobody", "-o", str(tmp_path / "trace.json")], monkeypatch) == 2
    assert "nobody has had no cold start" in capsys.readouterr().err


def test_a_picture_without_matplotlib_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(START, monkeypatch)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *rest, **more)

    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib" or name.endswith(".picture")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("forebay_cli.picture", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert forebay(["timeline", "-o", str(tmp_path / "t.png")], monkeypatch) == 2
    assert "install forebay[plot], or write a trace with -o trace.json" in capsys.readouterr().err
    assert forebay(["timeline", "-o", str(tmp_path / "t.json")], monkeypatch) == 0


def test_a_timeline_is_a_picture(tmp_path: Path) -> None:
    coldstart.write(START, tmp_path / "t.svg")
    assert "first token" in (tmp_path / "t.svg").read_text()


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "../a", "a?b"])
def test_what_names_no_function_is_refused(name: str) -> None:
    with pytest.raises(invoke.InvokeFailed, match="NAMESPACE/NAME"):
        invoke.path_of(name)


async def test_a_watch_outlives_the_operator(system: System) -> None:
    functions = (function("a", "file:///m/a"),)
    await system.start(*functions)
    seen = view.follow(State(system.state).operator)
    assert [item["name"] for item in (await anext(seen))["functions"]] == ["a"]
    await system.operator.stop()  # it has taken its file with it, too
    with pytest.raises(NothingRuns):
        State(system.state).operator()
    following = asyncio.ensure_future(_until_term(seen, 2))
    await asyncio.sleep(2 * view.AGAIN_SECONDS)
    assert not following.done()
    await system.restart(functions)
    async with asyncio.timeout(8):
        await following
    await seen.aclose()


async def _until_term(seen: Any, term: int) -> None:
    async for snapshot in seen:
        if snapshot["operator"]["term"] == term:
            return


async def test_a_watch_of_nothing_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        with pytest.raises(view.OperatorAway):
            await anext(view.follow(lambda: f"unix:{tmp_path}/deaf.sock"))


async def test_a_file_that_became_wrong_is_told_once() -> None:
    async def source() -> AsyncIterator[LoadedFunctions]:
        for problems in [(), ("x",), ("x", "y"), ("y",), (), ("x",)]:
            yield LoadedFunctions({}, problems)

    told: list[str] = []
    assert len([loaded async for loaded in watched(source(), told.append)]) == 6
    assert told == ["x", "y", "x"]


def test_an_operator_of_files_refuses_certificates_that_it_would_not_use(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forebay_operator", "-f", str(folder / "good.yaml")],
        env={**os.environ, "FOREBAY_TLS": "/etc/forebay/tls", "FOREBAY_STATE": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "FOREBAY_TLS='/etc/forebay/tls': an operator of files speaks plain text" in done.stderr
    assert not (folder / "state").exists()
