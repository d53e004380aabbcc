"""Where an answer may end, as a model's config files say. May not live here: torch, files, tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from forebay_worker.model.registry import InvalidConfig

GENERATION = "generation_config.json"
FILES = (GENERATION, "config.json")
"""Both may say so; what either says counts."""


def ends(name: str, config: Mapping[str, Any], vocabulary: int | None = None) -> Iterable[int]:
    """The end tokens that file ``name`` lists. Raises InvalidConfig: a device that is asked for a token beyond its
    table does not compute any more until its process ends."""
    listed = config.get("eos_token_id")
    for token in listed if isinstance(listed, list) else [] if listed is None else [listed]:
        if type(token) is not int or token < 0 or (vocabulary is not None and token >= vocabulary):
            beyond = "" if vocabulary is None else f" and below vocab_size, {vocabulary}"
            raise InvalidConfig(f"{name}: eos_token_id has {token!r}; must be whole numbers from 0{beyond}")
        yield token
