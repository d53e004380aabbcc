"""Units land once, whole and in the order told; rows overtake them; what goes wrong stops one backbone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import checkpoints
import device
from forebay_worker.device import Device, OutOfMemory
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from forebay_worker.load.copy import Arena, Mapped, Pinned
from forebay_worker.load.landing import Way
from forebay_worker.load.link import Bucket, Link
from forebay_worker.load.plan import Phase, pieces
from forebay_worker.load.source import Source
from forebay_worker.load.stream import Landed
from loading.watched import Watched

Watch = Callable[..., Watched]
FAST = 400e6  # bytes per second: paced, yet a tiny model is there at once


def paced(rate: float = FAST) -> Link:
    return Link(Bucket(rate), None)


class Gate:
    """Holds the loader thread in its first ``landed``, so that a test can change things while it loads."""

    def __init__(self, watched: Watched) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        watched.on_landed = self._hold

    def _hold(self, landed: Landed) -> None:
        self.reached.set()
        assert self.open.wait(20)


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("link", [None, FAST], ids=["at once", "paced"])
@pytest.mark.parametrize(("dtype", "copied"), [("auto", False), ("bfloat16", True), ("float16", True)])
def test_what_lands_is_what_the_library_reads(
    tiny: Callable[[str], Path], watch: Watch, family: str, link: float | None, dtype: str, copied: bool
) -> None:
    """As stored it is mapped, over an emulated link too; converted it is copied into an arena."""
    checkpoint = open_checkpoint(tiny(family).as_uri(), dtype)
    path = paced(link) if link else Link(None, None)
    watched = watch(link=path)
    assert Way(watched.device, path).copies(checkpoint, 1) is (copied and device.KIND == "cpu")
    loaded = watched.load(checkpoint)
    expected = load_file(tiny(family) / "model.safetensors")
    assert loaded.keys() == expected.keys()
    kind = getattr(torch, checkpoint.model.dtype)
    assert all(torch.equal(loaded[name], tensor.to(kind)) for name, tensor in expected.items())
    assert watched.loader.bytes_read == checkpoint.model.link_bytes
    assert watched.device.memory.used == checkpoint.model.resident_bytes


def test_stored_bfloat16_is_kept_and_widened(tmp_path: Path, watch: Watch) -> None:
    folder = checkpoints.tiny_model("qwen3", tmp_path / "bf16", dtype="bf16")
    expected = load_file(folder / "model.safetensors")
    for dtype, kind in (("auto", torch.bfloat16), ("float32", torch.float32)):
        loaded = watch().load(open_checkpoint(folder.as_uri(), dtype))
        assert all(torch.equal(loaded[name], tensor.to(kind)) for name, tensor in expected.items())


def test_the_real_model_lands_whole(smollm2: Path, watch: Watch) -> None:
    watched = watch()
    loaded = watched.load(open_checkpoint(smollm2.as_uri()))
    expected = load_file(smollm2 / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert watched.loader.rate > 0


def test_converted_tensors_begin_at_cache_lines(tiny: Callable[[str], Path], watch: Watch) -> None:
    loaded = watch(link=paced()).load(open_checkpoint(tiny("qwen2").as_uri(), "bfloat16"))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.values())


def test_units_come_in_order_and_tell_their_times(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    checkpoint = opened("llama")
    watched = watch(link=paced())
    watched.loader.hold(checkpoint, (2, 3, 1, 5, 4, 0), 6)
    watched.until(lambda: len(watched.landed) == 6)
    assert watched.units == [2, 3, 1, 5, 4, 0]
    states = watched.loader.states(checkpoint.model.backbone)
    assert [state.unit for state in states] == watched.units
    assert all(state.phase is Phase.RESIDENT for state in states)
    assert [state.bytes for state in states] == [checkpoint.model.units[state.unit].link_bytes for state in states]
    assert all(0 < state.asked_unix_us <= state.landed_unix_us for state in states)
    assert [state.landed_unix_us for state in states] == sorted(state.landed_unix_us for state in states)


def test_a_unit_without_bytes_lands_too(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    watched = watch()
    watched.loader.hold(opened("qwen2"), (0,), 0)
    watched.until(lambda: watched.units == [0])
    assert watched.landed[0].tensors == {}


def test_the_order_can_change_while_loading(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    checkpoint = opened("gpt_neox")
    watched = watch()
    gate = Gate(watched)
    watched.loader.hold(checkpoint, range(8), 0)
    assert gate.reached.wait(20)
    watched.loader.hold(checkpoint, (0, 7, 5, 6), 4)
    gate.open.set()
    watched.until(lambda: len(watched.landed) == 4)
    assert watched.units == [0, 7, 5, 6]
    assert watched.loader.bytes_read == sum(checkpoint.model.units[unit].link_bytes for unit in watched.units)


def test_urgent_units_of_another_model_go_first(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    llama, opt = opened("llama"), opened("opt")
    watched = watch()
    gate = Gate(watched)
    watched.loader.hold(llama, (1, 2, 3), 0)
    assert gate.reached.wait(20)
    watched.loader.hold(opt, (4, 5), 1)
    gate.open.set()
    watched.until(lambda: len(watched.landed) == 5)
    names = {llama.model.backbone: "llama", opt.model.backbone: "opt"}
    assert [(names[landed.backbone], landed.unit) for landed in watched.landed] == [
        ("llama", 1), ("opt", 4), ("llama", 2), ("llama", 3), ("opt", 5),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_rows_are_read_by_range_and_counted_apart(tiny: Callable[[str], Path], watch: Watch, dtype: str) -> None:
    checkpoint = open_checkpoint(tiny("opt").as_uri(), dtype)
    watched = watch(link=paced())
    stored = load_file(tiny("opt") / "model.safetensors")
    ids = [5, 6, 7, 300, 5, 511, 0]
    for table, name in (("tokens", "embed_tokens"), ("positions", "embed_positions")):
        rows = watched.rows(checkpoint, table, ids)
        assert torch.equal(rows, stored[f"model.decoder.{name}.weight"][ids].to(rows.dtype))
        assert rows.dtype == getattr(torch, checkpoint.model.dtype)
    assert watched.loader.row_bytes_read == 2 * 6 * 64 * 4, "a row asked for twice is read once"
    assert watched.loader.bytes_read == 0
    with pytest.raises(ValueError, match=r"row 512 is not one of the 512 of model\.decoder\.embed_tokens\.weight"):
        watched.loader.rows(checkpoint, "tokens", [512], lambda rows: None)


def test_rows_overtake_units(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    checkpoint = opened("llama")
    watched = watch()
    gate = Gate(watched)
    watched.loader.hold(checkpoint, (1, 2, 3, 4), 4)
    assert gate.reached.wait(20)
    landed_before: list[int] = []
    watched.loader.rows(checkpoint, "tokens", [1], lambda rows: landed_before.append(len(watched.landed)))
    gate.open.set()
    watched.until(lambda: len(watched.landed) == 4)
    assert landed_before == [1]


def test_a_unit_too_large_for_the_device_stops_its_model_only(
    opened: Callable[[str], Checkpoint], watch: Watch
) -> None:
    llama, opt = opened("llama"), opened("opt")
    watched = watch(memory_bytes=150_000)
    watched.loader.hold(llama, (1, 2), 2)
    watched.until(lambda: len(watched.failed) == 1)
    backbone, error = watched.failed[0]
    assert backbone == llama.model.backbone
    assert isinstance(error, OutOfMemory)
    assert str(llama.model.units[1].resident_bytes) in str(error)
    assert "150000" in str(error)
    watched.loader.hold(opt, (5,), 0)
    watched.until(lambda: watched.units == [5])
    assert watched.device.memory.used == opt.model.units[5].resident_bytes


def test_a_unit_waits_for_memory_that_is_being_let_go(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    checkpoint = opened("llama")
    one = checkpoint.model.units[1].resident_bytes
    watched = watch(memory_bytes=one + 10)
    watched.loader.hold(checkpoint, (1, 2), 0)
    watched.until(lambda: watched.units == [1])
    assert watched.device.memory.by_owner() == {checkpoint.model.backbone: one}
    watched.loader.forget(checkpoint.model.backbone, (1,))
    watched.landed[0].reservation.release()
    watched.until(lambda: watched.units == [1, 2])
    assert watched.failed == []


def test_what_is_forgotten_can_be_held_again(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    checkpoint = opened("qwen3")
    watched = watch()
    watched.load(checkpoint)
    first = watched.landed[2]
    assert watched.loader.wanted(first)
    watched.loader.forget(checkpoint.model.backbone, (2,))
    assert not watched.loader.wanted(first)
    watched.loader.hold(checkpoint, range(7), 0)
    watched.until(lambda: len(watched.landed) == 8)
    assert watched.units[-1] == 2
    assert not watched.loader.wanted(first), "the second one is meant"
    assert watched.loader.wanted(watched.landed[-1])


def test_forgetting_everything_gives_back_what_was_on_its_way(
    opened: Callable[[str], Checkpoint], watch: Watch
) -> None:
    checkpoint = opened("mistral")
    watched = watch(link=paced(1e5))  # a layer takes seconds
    watched.loader.hold(checkpoint, (1, 2), 2)
    spin = threading.Event()
    while not any(state.bytes for state in watched.loader.states(checkpoint.model.backbone)):
        assert not spin.wait(0.005)
    watched.loader.forget(checkpoint.model.backbone, None)
    while watched.device.memory.used:
        assert not spin.wait(0.005)
    assert watched.loader.states(checkpoint.model.backbone) == ()
    assert watched.landed == []


def test_closing_while_loading_gives_memory_back(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    watched = watch(link=paced(1e3))
    watched.loader.hold(opened("llama"), (1,), 1)
    spin = threading.Event()
    while not watched.device.memory.used:
        assert not spin.wait(0.005)
    watched.loader.close()
    assert watched.device.memory.used == 0
    assert not any(thread.name == "loader" for thread in threading.enumerate())


def replace(file: Path) -> None:
    file.write_bytes(file.read_bytes())


def shorten(file: Path) -> None:
    os.truncate(file, 1000)


@pytest.mark.parametrize("link", [None, FAST], ids=["at once", "paced"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [(Path.unlink, "cannot be read"), (replace, "has changed since"), (shorten, "has changed since")],
)
def test_a_file_that_is_gone_or_another_stops_its_model_only(
    copy: Callable[[str], Path],
    opened: Callable[[str], Checkpoint],
    watch: Watch,
    damage: Callable[[Path], object],
    says: str,
    link: float | None,
) -> None:
    folder = copy("llama")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    checkpoint = open_checkpoint(folder.as_uri())
    damage(folder / "model.safetensors")
    watched = watch(link=paced(link) if link else None)
    watched.loader.hold(checkpoint, (1, 2, 3), 3)
    watched.loader.hold(opened("opt"), (1, 2), 0)
    watched.until(lambda: len(watched.landed) == 2 and len(watched.failed) == 1)
    assert watched.units == [1, 2]
    backbone, error = watched.failed[0]
    assert backbone == checkpoint.model.backbone
    assert isinstance(error, CheckpointError)
    assert says in error.message
    assert watched.loader.states(backbone) == ()
    assert watched.device.memory.by_owner().keys() == {opened("opt").model.backbone}


def test_an_error_nobody_thought_of_stops_its_model_only(
    opened: Callable[[str], Checkpoint], watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confused(*about: object) -> None:
        raise ValueError("mmap length is greater than file size")

    watched = watch()
    with monkeypatch.context() as patch:
        patch.setattr(Way, "filling", confused)
        watched.loader.hold(opened("llama"), (1, 2), 1)
        watched.until(lambda: len(watched.failed) == 1)
    watched.loader.hold(opened("opt"), (1, 2), 0)
    watched.until(lambda: watched.units == [1, 2])
    assert watched.device.memory.by_owner().keys() == {opened("opt").model.backbone}


def test_rows_that_could_not_be_read_come_when_their_model_is_held_again(
    tiny: Callable[[str], Path], copy: Callable[[str], Path], watch: Watch
) -> None:
    file = copy("llama") / "model.safetensors"
    os.utime(file, ns=(1, 1))
    checkpoint, watched = open_checkpoint(file.parent.as_uri()), watch()
    away = file.rename(file.with_suffix(".away"))
    came: list[torch.Tensor] = []
    arrived = threading.Event()
    watched.loader.rows(checkpoint, "tokens", [3], lambda rows: (came.append(rows), arrived.set()))  # type: ignore[func-returns-value]
    watched.until(lambda: len(watched.failed) == 1)
    assert not arrived.wait(0.2), "nobody asks in vain again and again"
    away.rename(file)
    watched.loader.hold(checkpoint, (1,), 0)
    assert arrived.wait(20)
    assert torch.equal(came[0].cpu(), load_file(file)["model.embed_tokens.weight"][[3]])
    assert len(watched.failed) == 1


def test_a_unit_that_is_refused_is_not_there_and_can_be_held_again(
    opened: Callable[[str], Checkpoint], watch: Watch
) -> None:
    checkpoint, watched = opened("llama"), watch()
    backbone = checkpoint.model.backbone
    watched.loader.hold(checkpoint, (1, 2), 0)
    watched.until(lambda: watched.units == [1, 2])
    watched.loader.refuse(watched.landed[0], ValueError("does not fit"))
    assert [(name, str(error)) for name, error in watched.failed] == [(backbone, "does not fit")]
    assert [(state.unit, state.phase) for state in watched.loader.states(backbone)] == [(2, Phase.RESIDENT)]
    watched.loader.hold(checkpoint, (1, 2), 0)
    watched.until(lambda: watched.units == [1, 2, 1])


def test_a_device_that_raises_at_everything_ends_no_loader(
    opened: Callable[[str], Checkpoint], watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA does after an error that stays."""

    def sticky(*about: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    watched = watch()
    filling = Mapped if device.KIND == "cpu" else Pinned
    with monkeypatch.context() as patch:
        patch.setattr(filling, "move", sticky)
        patch.setattr(filling, "abandon", sticky)
        watched.loader.hold(opened("llama"), (1, 2), 1)
        watched.until(lambda: len(watched.failed) == 1)
    assert watched.device.memory.used == 0
    watched.loader.hold(opened("opt"), (1, 2), 0)
    watched.until(lambda: watched.units == [1, 2])
    assert not watched.loader.ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_not_passed_over(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    watched = watch()

    def burst(landed: Landed) -> None:
        raise RuntimeError("nobody can take it")

    watched.on_landed = burst
    watched.loader.hold(opened("llama"), (1,), 0)
    spin = threading.Event()
    while not watched.loader.ended:
        assert not spin.wait(0.005)


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "read"])
def test_a_file_cut_short_in_the_middle_of_a_unit_is_an_error_and_no_crash(
    copy: Callable[[str], Path], mapped: bool
) -> None:
    folder = copy("mistral")
    checkpoint = open_checkpoint(folder.as_uri())
    source = Source(checkpoint.stamps)
    device = Device.open("cpu", 0, 0)
    tensors = checkpoint.tensors[-1]
    filling = Mapped(tensors, source) if mapped else Arena(device, tensors, checkpoint.model.dtype, source)
    first, *rest = sorted(pieces(tensors, 1 << 16), key=lambda piece: piece.offset)
    filling.move(first)
    os.truncate(folder / "model.safetensors", first.offset + first.nbytes)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        filling.move(rest[-1])
    filling.abandon()
    source.close()


@pytest.mark.skipif(device.KIND != "cpu", reason="what a GPU holds is no memory of this process")
def test_dropped_units_go_back_to_the_system(smollm2: Path, watch: Watch) -> None:
    checkpoint = open_checkpoint(smollm2.as_uri())
    watched = watch(link=paced(5e9))
    watched.loader.hold(checkpoint, (31,), 1)  # the tied matrix: 113 MB
    watched.until(lambda: watched.units == [31])
    full = resident_bytes()
    watched.loader.forget(checkpoint.model.backbone, None)
    watched.landed.pop().reservation.release()
    assert full - resident_bytes() > 100e6
    assert watched.device.memory.used == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_order_of_units_that_do_not_exist_is_refused(opened: Callable[[str], Checkpoint], watch: Watch) -> None:
    with pytest.raises(ValueError, match="unit 9 is not one of the 6"):
        watch().loader.hold(opened("llama"), (1, 9), 0)
