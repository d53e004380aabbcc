"""How a model wants to be sampled where a caller says nothing: what its generation_config.json has of it.

As vLLM takes it: the numbers count, and do_sample does not, which says only what `generate` of transformers does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from forebay_worker.model.ends import GENERATION

log = structlog.get_logger(__name__)

RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, 1e6),
}


@dataclass(frozen=True, slots=True)
class Defaults:
    """As in ``engine.sample.Params``. Without a word of the model: plain sampling."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def defaults(config: Mapping[str, Any]) -> Defaults:
    """A value that makes no sense is passed over, and logged: callers can still say all of it themselves."""
    said = {name: config[name] for name in RANGES if config.get(name) is not None}
    wrong = {name: value for name, value in said.items() if not _right(name, value)}
    for name, value in wrong.items():
        low, high = RANGES[name]
        log.warning(
            "generation.ignored", field=f"{GENERATION}: {name}", value=repr(value)[:40], expected=f"{low} to {high}"
        )
    return Defaults(**{name: value for name, value in said.items() if name not in wrong})


def _right(name: str, value: Any) -> bool:
    kind = int if name == "top_k" else (int, float)
    low, high = RANGES[name]
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
