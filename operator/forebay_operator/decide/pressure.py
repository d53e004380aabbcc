"""Who gives devices up when functions want more than exist, to whom, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Payment:
    """``payer`` leaves ``workers`` so that ``receiver`` can have them; both are backbones. ``why`` is for people."""

    payer: str
    receiver: str
    workers: tuple[str, ...]
    why: str
