"""NVIDIA's management library, as far as Forebay asks it, of a machine with emulated cards."""

from __future__ import annotations

import time
from types import SimpleNamespace

NAME = "emulated card"
CARDS = 2
TOTAL_BYTES = 8 << 30

nvmlEventTypeXidCriticalError = 8
nvmlEventTypeDoubleBitEccError = 2


def uuid(index: int) -> str:
    return f"00000000-0000-0000-0000-00000000000{index}"


class NVMLError(Exception):
    pass


class NVMLError_Timeout(NVMLError):
    pass


def nvmlInit() -> None: ...
def nvmlShutdown() -> None: ...
def nvmlDeviceGetCount() -> int:
    return CARDS


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    return int(uuid[-1])


def nvmlDeviceGetUUID(card: int) -> str:
    return f"GPU-{uuid(card)}"


def nvmlDeviceGetName(card: int) -> str:
    return NAME


def nvmlDeviceGetMemoryInfo(card: int) -> SimpleNamespace:
    return SimpleNamespace(total=TOTAL_BYTES, free=TOTAL_BYTES)


def nvmlDeviceGetSupportedEventTypes(card: int) -> int:
    return nvmlEventTypeXidCriticalError


def nvmlEventSetCreate() -> int:
    return 0


def nvmlDeviceRegisterEvents(card: int, types: int, events: int) -> None: ...
def nvmlEventSetFree(events: int) -> None: ...
def nvmlEventSetWait(events: int, milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)
    raise NVMLError_Timeout
