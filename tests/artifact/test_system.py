"""The whole system, its models from every kind of source with credentials: the right tokens, and no secret anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from artifact.sources import S3_ID, S3_SECRET, TOKEN, Sources
from local.reference import Reference
from local.system import System, function, running, write

PROMPT, TOKENS = "The quick brown fox", 12
KINDS = ("hf", "s3", "https")


def body(world: Sources, kind: str, **model: object) -> dict[str, object]:
    credentials = {"secretRef": {"name": "models", "key": {"s3": "S3_KEY"}.get(kind, "MODEL_TOKEN")}}
    return function(kind, Path("/"), model={"uri": world.uri(kind, "m"), "credentials": credentials, **model})


def everything_said(system: System, cache: Path) -> str:
    """Logs, command lines and what is in files."""
    said = [path.read_text(errors="replace") for path in system.state.folder.rglob("*") if path.is_file()]
    said += [path.read_text(errors="replace") for path in cache.rglob("*") if path.is_file()]
    said += [" ".join(process.cmdline()) for process in system.children()]
    return "\n".join(said)


async def test_three_sources_one_system(
    world: Sources, tiny: Callable[[str], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("llama")
    world.add("m", folder)
    world.hub.token = world.web.token = TOKEN
    monkeypatch.setenv("MODEL_TOKEN", TOKEN)
    monkeypatch.setenv("S3_KEY", f"{S3_ID}:{S3_SECRET}")
    file = write(tmp_path / "functions.yaml", *(body(world, kind) for kind in KINDS))
    reference = Reference(folder)
    with running(tmp_path / "state", [file], workers=2) as system:
        await system.ready(2, functions=3)
        async with system.client() as client:
            for kind in KINDS:
                made = await client.completions.create(model=kind, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
                reference.check(made.choices[0].text, PROMPT, TOKENS, chat=False)
        seen = await system.look()
        shown = json.dumps(seen, default=str) + everything_said(system, cache)
    for secret in (TOKEN, S3_SECRET, S3_ID, "signed-and-secret"):
        assert secret not in shown
    whole = (folder / "model.safetensors").stat().st_size
    # The same files by s3:// and by https:// are two backbones: each server vouches for itself alone.
    assert {model["uri"].partition("://")[0] for model in seen["models"]} == set(KINDS)
    for server in (world.hub.store, world.web):
        assert server.weights_asked().count((0, whole)) == 1


async def test_wrong_credentials_and_damage_are_told_and_pass_when_corrected(
    world: Sources, tiny: Callable[[str], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("llama")
    world.add("m", folder)
    world.hub.token = TOKEN
    monkeypatch.setenv("MODEL_TOKEN", "hf_wrongbutsecret")
    monkeypatch.setenv("RIGHT", TOKEN)
    file = write(tmp_path / "functions.yaml", body(world, "hf"))
    with running(tmp_path / "state", [file], workers=1) as system:
        await system.until(lambda seen: _reason(seen) == "Unauthorized", "wrong credentials are refused")
        right = {"secretRef": {"name": "models", "key": "RIGHT"}}
        world.hub.store.lever.flip = (folder / "model.safetensors").stat().st_size - 100
        write(file, body(world, "hf", credentials=right))
        await system.ready(1)
        async with system.client() as client:
            await client.completions.create(model="hf", prompt=PROMPT, max_tokens=4)  # before the sum is known
        await system.until(lambda seen: _reason(seen) == "ChecksumMismatch", "the damage is told")
        await system.until(lambda seen: not seen["workers"][0]["holds"], "nothing of it is held any more")
        said = everything_said(system, cache)
    assert "hf_wrongbutsecret" not in said
    assert TOKEN not in said


def _reason(seen: dict[str, object]) -> str:
    functions = seen["functions"]
    assert isinstance(functions, list)
    return str(functions[0]["reason"]) if functions else ""
