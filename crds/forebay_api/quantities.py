"""Sizes and rates as people write them: ``2GB``, ``512MiB``, ``50MB/s``, decimal and binary. Results are in bytes."""

from __future__ import annotations

import re

_FACTORS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in ``text``. Raises ValueError that says what a size looks like."""
    match = _SIZE.fullmatch(text)
    size = round(float(match[1]) * _FACTORS[(match[2] or "").lower()]) if match else 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a size: write a number with a unit, such as 2GB or 512MiB")
    return size


def parse_rate(text: str) -> float:
    """Bytes per second in ``text``. Raises ValueError that says what a rate looks like."""
    amount, slash, per = text.strip().rpartition("/")
    try:
        if slash and per.strip() == "s":
            return float(parse_size(amount))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not a rate: write a size per second, such as 50MB/s or 1GiB/s")


def format_size(size: float) -> str:
    """``size`` bytes in the largest decimal unit that leaves at least 1: ``538 MB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            scaled = size / factor
            return f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return f"{size:.0f} B"
