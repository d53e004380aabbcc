"""The device that tests of workers compute on: the CPU, or what FOREBAY_TEST_DEVICE names, cuda that is."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal, cast

from forebay_worker.device import Device

KIND = cast("Literal['cpu', 'cuda']", os.environ.get("FOREBAY_TEST_DEVICE", "cpu"))


def of_one_thread(memory_bytes: int) -> Device:
    """Several share the machine: each operation is one thread's."""
    return replace(Device.open(KIND, memory_bytes, 0), threads=1)
