"""Checkpoints that tests share: the real small model, converted once into a cache, and tiny random ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

from forebay_worker.model.make import write_random, write_smollm2

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "opt", "gpt_neox")
LIKE = {
    "llama": "llama-1.1b",
    "qwen2": "qwen2-0.5b",
    "qwen3": "qwen3-0.6b",
    "mistral": "mistral-7b",
    "opt": "opt-1.3b",
    "gpt_neox": "gpt-neox-410m",
}


def cache_folder() -> Path:
    return Path(os.environ.get("FOREBAY_CACHE") or Path.home() / ".cache" / "forebay")


def real_smollm2() -> Path:
    """The float32 checkpoint of SmolLM2-135M-Instruct, made when it is not there yet (some ten seconds)."""
    folder = cache_folder() / "models" / "smollm2-135m-instruct-fp32"
    write_smollm2(folder, lambda what, fraction: None)
    return folder


def tiny_model(family: str, folder: Path, dtype: str = "fp32", seed: int = 7) -> Path:
    """A random model of two to six layers, written to ``folder`` unless it is already there."""
    if not folder.exists():
        write_random(LIKE[family], folder, seed=seed, tiny=True, dtype=dtype)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
