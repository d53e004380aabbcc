"""Read the header of a safetensors file, distrusting every number in it.

    8 bytes     header length N, little endian
    N bytes     JSON: {name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {…}}
    the rest    data; offsets count from here

Imports neither torch nor the safetensors library: it is quick, and every refusal names the tensor.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class BrokenFile(ValueError):
    """The file is not what its header says, or the header is nonsense."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: ``offset`` counts from the beginning of the file; ``dtype`` as safetensors spells it (BF16)."""

    name: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """``raw`` is the JSON as stored, ``size`` that of the file and ``version`` what its source, or its folder, tells it
    apart by: together they identify it. ``mtime_ns`` is None for a file that comes from elsewhere."""

    file: Path
    entries: tuple[Entry, ...]
    raw: bytes
    size: int
    version: str
    mtime_ns: int | None


def read_header(file: Path, limit: int = MAX_HEADER_BYTES) -> Header:
    """A longer one than ``limit`` bytes is not read. Raises BrokenFile naming the file and the tensor, OSError when the
    file cannot be read."""
    with file.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        if length <= min(limit, stat.st_size - 8):
            head += stream.read(length)
    return parse_header(file, head, stat.st_size, str(stat.st_mtime_ns), stat.st_mtime_ns, limit)


def parse_header(
    file: Path, head: bytes, size: int, version: str, mtime_ns: int | None = None, limit: int = MAX_HEADER_BYTES
) -> Header:
    """Of a file of ``size`` bytes that begins with ``head``, which need not be longer than the header. Raises
    BrokenFile."""
    if size < 8 or len(head) < 8:
        raise BrokenFile(f"{file.name}: {size} bytes is too short for a safetensors file")
    length = int.from_bytes(head[:8], "little")
    raw = head[8 : 8 + length]
    if limit < length <= size - 8:
        raise BrokenFile(f"{file.name}: header of {length} bytes; {limit} are left of what a model's headers may have")
    if length > size - 8 or len(raw) < length:
        raise BrokenFile(f"{file.name}: header of {length} bytes in a file of {size}: truncated, or not safetensors")
    entries = _entries(file.name, raw, data_start=8 + length, data_bytes=size - 8 - length)
    return Header(file, entries, raw, size, version, mtime_ns)


def _entries(file: str, raw: bytes, data_start: int, data_bytes: int) -> tuple[Entry, ...]:
    table = _table(file, raw)
    found = []
    for name, described in table.items():
        if name == "__metadata__":
            continue
        entry = _entry(file, name, described, data_start)
        end, size = entry.offset + entry.nbytes, data_start + data_bytes
        if end > size:
            raise BrokenFile(f"{file}: tensor {name} ends at byte {end} of a file of {size}: truncated")
        found.append(entry)
    found.sort(key=lambda entry: (entry.offset, entry.nbytes))
    for before, after in pairwise(found):
        if before.offset + before.nbytes > after.offset:
            raise BrokenFile(f"{file}: tensors {before.name} and {after.name} overlap")
    return tuple(found)


def _table(file: str, raw: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            seen: set[str] = set()
            again = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise BrokenFile(f"{file}: {again} is in the header twice")
        return table

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except BrokenFile:
        raise
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{file}: header is not JSON ({error})") from error
    if not isinstance(table, dict):
        raise BrokenFile(f"{file}: header is not a JSON object")
    return table


def _entry(file: str, name: str, described: Any, data_start: int) -> Entry:
    if not isinstance(described, dict):
        raise BrokenFile(f"{file}: tensor {name} is not described by an object")
    dtype, shape, offsets = described.get("dtype"), described.get("shape"), described.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise BrokenFile(f"{file}: tensor {name} has unknown dtype {dtype!r}")
    if not _sizes(shape):
        raise BrokenFile(f"{file}: tensor {name} has shape {shape!r}; must be a list of sizes")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BrokenFile(f"{file}: tensor {name} has data_offsets {offsets!r}; must be [begin, end]")
    nbytes = offsets[1] - offsets[0]
    if nbytes != math.prod(shape) * ITEM_BYTES[dtype]:
        raise BrokenFile(f"{file}: tensor {name} of {dtype} {shape} cannot have {nbytes} bytes")
    return Entry(name, data_start + offsets[0], nbytes, dtype, tuple(shape))


def _sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether ``value`` is a list of numbers that can be sizes; a bool is not, and 2^63 is nobody's size."""
    return (
        isinstance(value, list) and len(value) <= 8 and all(type(size) is int and 0 <= size < 1 << 63 for size in value)
    )
