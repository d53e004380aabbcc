"""What weights' files begin with is fetched apart from the rest: within the cache's budget, and within bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifact.sources import Sources, access
from forebay_worker.artifact import artifact
from forebay_worker.load.checkpoint import CheckpointError, open_checkpoint


def weights(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def test_headers_that_are_too_long_together_are_not_fetched(
    world: Sources, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(artifact, "HEAD", 100)
    monkeypatch.setattr(artifact, "HEADERS_BYTES", 2500)
    folder = tmp_path / "long"
    folder.mkdir()
    names = [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"t{number}": name for number, name in enumerate(names)}})
    )
    for name in names:
        (folder / name).write_bytes(weights(b" " * 1000))
    world.add("long", folder)
    with pytest.raises(CheckpointError, match="headers of its safetensors files have more than 2500 bytes") as refused:
        open_checkpoint(world.uri("https", "long"), "auto", access("https"))
    assert refused.value.reason == "InvalidCheckpoint"
    assert sum((begin, end) == (100, 1008) for begin, end in world.web.weights_asked()) <= 2


def test_room_is_made_for_headers(world: Sources, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_CACHE_BYTES", "120KB")  # enough for the small files
    with pytest.raises(CheckpointError, match="raise FOREBAY_CACHE_BYTES") as refused:
        open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    assert refused.value.reason == "CacheFull"
    assert not any(end - begin > 1 for begin, end in world.web.weights_asked())
