"""What the driver tells of cards; one that it says is sick is a fault, what a program did to itself is none."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from forebay_worker import nvml
from forebay_worker.formation import FaultReason
from forebay_worker.vigil import Vigil


class Driver:
    """NVML as far as a vigil knows it. ``said``: what each wait for an event gives; then there are none."""

    nvmlEventTypeDoubleBitEccError, nvmlEventTypeXidCriticalError = 2, 8  # the library's names

    class NVMLError(Exception): ...

    class NVMLError_Timeout(NVMLError): ...

    def __init__(self, *said: tuple[int, int] | None, known: bool = True) -> None:
        self.said = list(said)
        self.known = known
        self.initialised = 0
        self.asked: list[int] = []
        self.freed = threading.Event()

    def nvmlInit(self) -> None:
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self.initialised -= 1
        self.freed.set()

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if not self.known:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetSupportedEventTypes(self, card: str) -> int:
        return 8 | 2 | 1

    def nvmlEventSetCreate(self) -> list[int]:
        return self.asked

    def nvmlDeviceRegisterEvents(self, card: str, types: int, events: list[int]) -> None:
        events.append(types)

    def nvmlEventSetWait(self, events: list[int], timeout: int) -> Any:
        said = self.said.pop(0) if self.said else None
        if said is None:
            threading.Event().wait(0.01)
            raise self.NVMLError_Timeout("Timeout")
        return SimpleNamespace(eventType=said[0], eventData=said[1])

    def nvmlEventSetFree(self, events: list[int]) -> None:
        events.clear()


@pytest.mark.parametrize(
    ("said", "message"), [((8, 79), "the driver reports Xid 79"), ((2, 0), "the driver reports uncorrectable memory")]
)
def test_a_sick_card_is_a_fault(monkeypatch: pytest.MonkeyPatch, said: tuple[int, int], message: str) -> None:
    driver, told = Driver(None, (8, 13), None, (8, 45), said), threading.Event()
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    vigil = Vigil("GPU-1", told.set)
    assert told.wait(10)
    (fault,) = vigil.faults
    assert (fault.reason, message in fault.message) == (FaultReason.DEVICE_ERROR, True)
    assert driver.asked == [10]
    vigil.close()
    assert driver.freed.wait(10)
    assert (driver.initialised, driver.asked) == (0, [])


def test_a_card_that_cannot_be_watched_is_not_taken_for_sick(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(known=False)
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    vigil = Vigil("GPU-1", lambda: None)
    assert driver.freed.wait(10)
    assert vigil.faults == ()
    vigil.close()


class Cards(Driver):
    """One card that tells all, and one that a container knows by its name alone. Handles are numbers."""

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, card: int) -> bytes:
        return b"NVIDIA H100"

    def nvmlDeviceGetUUID(self, card: int) -> str:
        if card:
            raise self.NVMLError("No Permission")
        return "GPU-1"

    def nvmlDeviceGetMemoryInfo(self, card: int) -> Any:
        if card:
            raise self.NVMLError("No Permission")
        return SimpleNamespace(free=7, total=10)


def test_the_inventory_is_what_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Cards()
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    assert nvml.inventory() == (nvml.Gpu("GPU-1", "NVIDIA H100", 7), nvml.Gpu("", "NVIDIA H100"))
    assert driver.initialised == 0
