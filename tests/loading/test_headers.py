"""Headers of safetensors files are believed in nothing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay_worker.load.safetensors import BrokenFile, read_header

QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, table: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    file = folder / "model.safetensors"
    file.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return file


def tensor(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_good_header_gives_offsets_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path, {"__metadata__": {"format": "pt"}, "b": tensor([2], 8, 16), "a": tensor([2], 0, 8)}, bytes(16)
    )
    header = read_header(file)
    assert [(entry.name, entry.nbytes) for entry in header.entries] == [("a", 8), ("b", 8)]
    assert header.entries[1].offset + 8 == header.size


def test_padding_between_tensors_is_allowed(tmp_path: Path) -> None:
    file = write(tmp_path, {"a": tensor([2], 0, 8), "b": tensor([2], 64, 72)}, bytes(80))
    assert len(read_header(file).entries) == 2


@pytest.mark.parametrize(
    ("table", "data", "says"),
    [
        ({"a": tensor([4], 0, 16)}, bytes(15), "a ends at byte .* truncated"),
        ({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12), "a and b overlap"),
        ({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, bytes(8), "a and b overlap|b and a overlap"),
        ({"a": tensor([3], 0, 8)}, bytes(8), r"a of F32 \[3\] cannot have 8 bytes"),
        ({"a": tensor([2], 8, 0)}, bytes(8), "a has data_offsets"),
        ({"a": tensor([2], -8, 0)}, bytes(8), "a has data_offsets"),
        ({"a": tensor([2], 0.0, 8)}, bytes(8), "a has data_offsets"),
        ({"a": tensor([True, 2], 0, 8)}, bytes(8), "a has shape"),
        ({"a": tensor([-1, -2], 0, 8)}, bytes(8), "a has shape"),
        ({"a": tensor([1 << 70], 0, 8)}, bytes(8), "a has shape"),
        ({"a": tensor([2], 0, 8, "F31")}, bytes(8), "a has unknown dtype 'F31'"),
        ({"a": tensor([2], 0, 8, ["F32"])}, bytes(8), "a has unknown dtype"),
        ({"a": [1, 2]}, b"", "a is not described by an object"),
        ([1, 2], b"", "not a JSON object"),
        (b'{"a": 1, "a": 2}', b"", "a is in the header twice"),
        (b'{"a": NaN}', b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
    ],
)
def test_nonsense_is_refused_by_name(tmp_path: Path, table: Any, data: bytes, says: str) -> None:
    with pytest.raises(BrokenFile, match=says):
        read_header(write(tmp_path, table, data))


@pytest.mark.parametrize("length", [3, 1 << 20, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_never_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(BrokenFile, match=r"model\.safetensors: (header of|header is not JSON)"):
        read_header(write(tmp_path, {"a": tensor([2], 0, 8)}, bytes(8), length))


def test_a_file_of_a_few_bytes_is_too_short(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"1234")
    with pytest.raises(BrokenFile, match="4 bytes is too short"):
        read_header(file)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["F32", "BF16", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "a"]), inner),
    max_leaves=8,
)
described = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F31"]) | values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | values,
        "data_offsets": st.lists(st.integers(-1, 80), min_size=2, max_size=2) | values,
    }
)


@QUICK
@given(table=st.dictionaries(st.text(max_size=3), described | values, max_size=4) | values, size=st.integers(0, 80))
def test_whatever_is_accepted_lies_in_the_file_without_overlap(tmp_path: Path, table: Any, size: int) -> None:
    file = write(tmp_path, table, bytes(size))
    try:
        header = read_header(file)
    except BrokenFile:
        return
    end = 0
    for entry in header.entries:
        assert entry.nbytes == 0 or entry.offset >= end
        end = max(end, entry.offset + entry.nbytes)
    assert end <= header.size == file.stat().st_size


@QUICK
@given(raw=st.binary(max_size=64))
def test_random_bytes_are_refused_or_hold_nothing(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(raw)
    with contextlib.suppress(BrokenFile):
        assert read_header(file).entries == ()
