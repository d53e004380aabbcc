"""What the driver says of a GPU's health: errors after which nothing that it computes can be trusted.

A thread waits for NVML's events of one card. Programs cause some of them (NVIDIA's Xid catalogue: a kernel that
touched a wrong address, a process that was ended): those say nothing of the card.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from forebay_worker.formation import Fault, FaultReason
from forebay_worker.pipelines import faults_total

log = structlog.get_logger(__name__)

PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})
"""Xid errors of the program that ran, not of the card."""
WAIT_MS = 1000


class Vigil:
    """Over the card ``uuid``. ``changed`` is called, by the thread, when there is a fault to be told of."""

    def __init__(self, uuid: str, changed: Callable[[], None]) -> None:
        self.faults: tuple[Fault, ...] = ()  # replaced, never changed: others read it
        self._uuid = uuid
        self._changed = changed
        self._over = threading.Event()
        threading.Thread(target=self._run, name="vigil", daemon=True).start()

    def close(self) -> None:
        """The thread ends within `WAIT_MS`."""
        self._over.set()

    def _run(self) -> None:
        try:
            import pynvml
        except ModuleNotFoundError:
            return
        try:
            pynvml.nvmlInit()
            try:
                self._watch(pynvml)
            finally:
                pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:  # the kubelet's device plugin may still see what we do not
            log.warning("the GPU's health is not watched", device=self._uuid, reason=str(error))

    def _watch(self, nvml: Any) -> None:
        card = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        events = nvml.nvmlEventSetCreate()
        nvml.nvmlDeviceRegisterEvents(card, wanted & nvml.nvmlDeviceGetSupportedEventTypes(card), events)
        try:
            while not self._over.is_set():
                try:
                    event = nvml.nvmlEventSetWait(events, WAIT_MS)
                except nvml.NVMLError_Timeout:
                    continue
                if event.eventType != nvml.nvmlEventTypeXidCriticalError:
                    self._found("uncorrectable memory errors")
                elif event.eventData not in PROGRAMS:
                    self._found(f"Xid {event.eventData}")
        finally:
            nvml.nvmlEventSetFree(events)

    def _found(self, what: str) -> None:
        fault = Fault(FaultReason.DEVICE_ERROR, f"the driver reports {what}", time.time_ns() // 1000)
        log.warning("the device is sick", device=self._uuid, reason=fault.message)
        faults_total.labels(fault.reason).inc()
        self.faults = (fault,)
        self._changed()
