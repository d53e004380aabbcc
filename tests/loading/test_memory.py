"""The ledger of a device, and what a device says of itself."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forebay_worker import nvml
from forebay_worker.device import (
    CONTEXT_BYTES,
    CPU_SHARE,
    Device,
    DeviceError,
    Memory,
    OutOfMemory,
    Reservation,
    card_share,
    physical_bytes,
)


def test_a_reservation_over_the_budget_changes_nothing() -> None:
    memory = Memory(100)
    memory.reserve("units", 60)
    with pytest.raises(OutOfMemory, match="kv wants 41 bytes of device memory; 40 of 100 are free"):
        memory.reserve("kv", 41)
    assert (memory.used, memory.free, memory.by_owner()) == (60, 40, {"units": 60})


def test_releasing_twice_gives_back_once() -> None:
    memory = Memory(100)
    told: list[int] = []
    memory.watch(lambda: told.append(memory.free))
    line, _other = memory.reserve("a", 30), memory.reserve("a", 20)
    line.release()
    line.release()
    assert (memory.used, told) == (20, [80])


@given(st.lists(st.integers(0, 60), max_size=30), st.randoms(use_true_random=False))
def test_the_sums_always_hold(sizes: list[int], random: object) -> None:
    memory = Memory(200)
    lines: list[Reservation] = []
    for number, size in enumerate(sizes):
        try:
            lines.append(memory.reserve("ab"[number % 2], size))
        except OutOfMemory:
            assert size > memory.free
            lines.pop(0).release()
        assert memory.used == sum(line.nbytes for line in lines) == sum(memory.by_owner().values()) <= 200


def test_threads_never_overcommit() -> None:
    memory = Memory(50)

    def work() -> None:
        for _ in range(2000):
            try:
                line = memory.reserve("x", 20)
            except OutOfMemory:
                continue
            assert memory.used <= 50
            line.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert memory.used == 0


def test_the_cpu_is_its_cores() -> None:
    device = Device.open("cpu", 1 << 20, 0)
    assert device.kind == device.name == "cpu"
    assert device.threads == len(device.compute) == len(os.sched_getaffinity(0))
    assert device.memory.budget == 1 << 20


def test_without_a_budget_workers_divide_a_share_of_the_machine() -> None:
    assert Device.open("cpu", None, 0, workers=4).memory.budget == int(physical_bytes() * CPU_SHARE) // 4


GB = 1 << 30


@pytest.mark.parametrize(
    ("free", "sharers", "limit", "budget"),
    [
        (78 * GB, 1, 78 * GB, 78 * GB * 9 // 10 + 1),  # a tenth for what a step needs beside it
        (70 * GB, 4, 20 * GB - CONTEXT_BYTES, 20 * GB - CONTEXT_BYTES - (20 * GB - CONTEXT_BYTES) // 10),
        (10 * GB, 4, 10 * GB, 9 * GB),  # somebody else has the rest
        (5 * GB, 1, 5 * GB, 4 * GB),  # a gigabyte at least
        (GB // 2, 1, GB // 2, 0),
    ],
)
def test_a_card_is_divided_among_its_workers(free: int, sharers: int, limit: int, budget: int) -> None:
    assert card_share(free, 80 * GB, sharers) == (limit, budget)


@pytest.mark.skipif(bool(nvml.inventory()), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceError, match="--device cuda: NVML finds no GPU; use cpu or auto"):
        Device.open("cuda", None, 0)
    assert Device.open("auto", 1, 0).kind == "cpu"


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 9 << 20])
def test_an_arena_has_its_size_and_can_be_written(nbytes: int) -> None:
    arena = Device.open("cpu", 1, 0).arena(nbytes)
    assert (arena.dtype, arena.numel()) == (torch.uint8, nbytes)
    arena.fill_(7)
