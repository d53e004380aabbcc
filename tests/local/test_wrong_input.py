"""Wrong input at the command line and in files: one clear line each, and nothing is left running."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from forebay_worker import nvml
from local.system import System, free_port, function, running, write

Tiny = Callable[[str], Path]


def forebay(*words: str, timeout: float = 60.0, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forebay_cli", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environ},
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a person reads on standard error, frames and line breaks of boxes left out."""
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("count", ["0", "65"])
def test_no_such_number_of_workers(tmp_path: Path, count: str) -> None:
    done = forebay("up", "-f", str(tmp_path), "--workers", count)
    assert done.returncode == 2
    assert f"'--workers': {count} is not a number of workers: between 1 and 64" in said(done)


@pytest.mark.skipif(bool(nvml.inventory()), reason="there is a GPU")
def test_workers_that_can_never_start(tmp_path: Path) -> None:
    """Their one line ends `up`, and nothing is left."""
    write(tmp_path / "f.yaml", function("f", tmp_path))
    state = tmp_path / "state"
    words = ("--device", "cuda", "--state", str(state), "--port", str(free_port()))
    done = forebay("up", "-f", str(tmp_path / "f.yaml"), *words)
    assert done.returncode == 2
    assert done.stderr == f"forebay: {nvml.NO_GPU}\n"
    assert not list(state.rglob("*.sock"))
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(state) in (each.info["cmdline"] or ())]


@pytest.mark.parametrize(
    ("flag", "value", "right"),
    [("--link-rate", "50", "50MB/s"), ("--device-memory", "lots", "2GB"), ("--device", "tpu", "cuda")],
)
def test_wrong_flags(tmp_path: Path, flag: str, value: str, right: str) -> None:
    done = forebay("up", "-f", str(tmp_path), flag, value)
    assert done.returncode == 2
    assert right in said(done)
    assert value in said(done)


def test_a_state_folder_that_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    write(tmp_path / "f.yaml", function("f", tmp_path))
    done = forebay("up", "-f", str(tmp_path / "f.yaml"), "--state", str(folder))
    assert done.returncode == 2
    assert "can be written by others" in said(done)
    assert not list(folder.iterdir())


def test_no_such_file(tmp_path: Path) -> None:
    done = forebay("up", "-f", str(tmp_path / "absent.yaml"), "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert "absent.yaml" in said(done)


def test_wrong_field(tmp_path: Path) -> None:
    body = function("wrong", tmp_path)
    body["spec"]["scaling"] = {"minReplica": 1, "maxReplicas": 0}
    done = forebay("up", "-f", str(write(tmp_path / "f.yaml", body)), "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    for expected in ("spec.scaling.minReplica", "minReplicas", "spec.scaling.maxReplicas"):
        assert expected in said(done)


def test_two_functions_of_one_name(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.yaml", function("same", tmp_path)) for name in ("one", "two")]
    done = forebay("up", "-f", str(files[0]), "-f", str(files[1]), "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    for expected in ("one.yaml", "two.yaml", "same"):
        assert expected in said(done)


def test_port_taken(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        file = write(tmp_path / "f.yaml", function("one", tmp_path))
        done = forebay("up", "-f", str(file), "--port", str(port), "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert str(port) in said(done)
    assert not list((tmp_path / "state").rglob("*.sock"))
    assert begun_with(tmp_path / "state") == []


def begun_with(state: Path) -> list[list[str]]:
    """The command lines of all live processes that were told of this state folder."""
    words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [each for each in words if any(str(state) in word for word in each)]


def test_nothing_runs(tmp_path: Path) -> None:
    done = forebay("get", "functions", "--state", str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "forebay up" in said(done)


def broken(folder: Path, kind: str, tiny: Tiny) -> Path:
    """A checkpoint that is wrong in one way."""
    import shutil

    source = tiny("llama")
    target = folder / kind
    shutil.copytree(source, target)
    shard = target / "model.safetensors"
    if kind == "truncated":
        shard.write_bytes(shard.read_bytes()[:-1000])
    elif kind == "pickle":
        shard.rename(target / "pytorch_model.bin")
    elif kind == "architecture":
        config = json.loads((target / "config.json").read_text())
        config.update(architectures=["MambaForCausalLM"], model_type="mamba")
        (target / "config.json").write_text(json.dumps(config))
    elif kind == "missing-shard":
        names = json.loads(shard.read_bytes()[8 : 8 + int.from_bytes(shard.read_bytes()[:8], "little")])
        index = {"weight_map": {name: "model-00001-of-00002.safetensors" for name in names if name != "__metadata__"}}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
        shard.unlink()
    elif kind == "overlapping":
        data = shard.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        first, second = [name for name in header if name != "__metadata__"][:2]
        header[second]["data_offsets"] = [
            header[first]["data_offsets"][0],
            header[first]["data_offsets"][0] + header[second]["data_offsets"][1] - header[second]["data_offsets"][0],
        ]
        text = json.dumps(header).encode().ljust(length)
        shard.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return target


BROKEN = {
    "truncated": "model.safetensors",
    "pickle": "safetensors",
    "architecture": "MambaForCausalLM",
    "missing-shard": "model-00001-of-00002.safetensors",
    "overlapping": "overlap",
}


async def test_wrong_checkpoints_and_requests(tmp_path: Path, tiny: Tiny) -> None:
    """One system, many wrong functions: each says what is wrong with it, the right one serves."""
    bodies = [function(kind, broken(tmp_path, kind, tiny)) for kind in BROKEN]
    bodies += [function("absent", tmp_path / "nowhere"), function("right", tiny("llama"), model={"maxModelLen": 128})]
    file = write(tmp_path / "functions.yaml", *bodies)
    with running(tmp_path / "state", [file], workers=1) as system:
        seen = await system.until(
            lambda seen: (
                len(seen["functions"]) == len(bodies)
                and all(item["state"] == "Failed" or item["backbone"] for item in seen["functions"])
            ),
            "every model is inspected",
        )
        messages = {item["name"]: (item["state"], item["message"]) for item in seen["functions"]}
        for kind, expected in {**BROKEN, "absent": str(tmp_path / "nowhere")}.items():
            state, message = messages[kind]
            assert state == "Failed", kind
            assert expected in message, (kind, message)
        await wrong_requests(system)
        assert len(begun_with(tmp_path / "state")) == 3, "up, zygote and worker"
    assert begun_with(tmp_path / "state") == []


async def wrong_requests(system: System) -> None:
    async with system.client() as client:
        with pytest.raises(openai.APIStatusError, match=r"model\.safetensors") as failed:
            await ask(client, "truncated")
        assert failed.value.status_code == 503
        with pytest.raises(openai.NotFoundError, match="nobody"):
            await ask(client, "nobody")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await ask(client, "right", max_tokens=1000)
        with pytest.raises(openai.BadRequestError, match=r"tokens; at most 127"):
            await ask(client, "right", prompt="word " * 400)
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await ask(client, "right", temperature="hot")
        assert await ask(client, "right", max_tokens=3), "the right one serves all the while"


async def ask(client: openai.AsyncOpenAI, model: str, prompt: str = "one two", **options: Any) -> str:
    answer = await client.completions.create(model=model, prompt=prompt, **options)
    return answer.choices[0].text
