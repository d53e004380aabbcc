"""Whatever fails in a pipeline ends that pipeline at every stage, within moments, and nothing else."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY

from engine.rig import Rig, formations, formed, greedy, opened, until
from forebay_api.model import Epoch
from forebay_worker import segment, stage
from forebay_worker.device import Device
from forebay_worker.engine.blocks import BlockPool
from forebay_worker.formation import FaultReason, Phase
from forebay_worker.load.stream import Landed

Tiny = Callable[[str], Path]


def accelerator_error(message: str, code: int) -> torch.AcceleratorError:
    """As torch raises it."""
    error = torch.AcceleratorError(message)
    error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (RuntimeError("shape '[1, 6, 4, 8]' is invalid for input of size 128"), FaultReason.STEP_FAILED),
        (TypeError("'<' not supported between instances of 'str' and 'int'"), FaultReason.STEP_FAILED),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `x`"), FaultReason.STEP_FAILED),
        (RuntimeError("Expected all tensors on the same device, but found cuda:0 and cpu"), FaultReason.STEP_FAILED),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`"), FaultReason.DEVICE_ERROR),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), FaultReason.DEVICE_ERROR),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), FaultReason.DEVICE_ERROR),
        (accelerator_error("CUDA error: invalid configuration argument", 9), FaultReason.STEP_FAILED),
    ],
)
def test_a_step_that_raises_is_a_fault_of_its_pipeline_alone(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: FaultReason
) -> None:
    sick, well = tiny("llama"), tiny("qwen2")
    nodes, epoch = rig.pipeline(sick, 2)
    other = rig.form(well, [nodes[0]])
    nodes[0].land(well)

    def burn(*args: object) -> torch.Tensor:
        raise raised

    monkeypatch.setattr(nodes[0].skeletons[opened(sick).model.backbone], "layer", burn)
    ended = rig.ask(nodes[1], epoch, (1, 2)).wait().ended
    assert ended is not None
    assert ended.reason == "pipeline_gone"
    (fault,) = nodes[0].executor.faults()
    assert (fault.reason, fault.backbone) == (reason, opened(sick).model.backbone)
    assert str(raised) in fault.message
    assert not nodes[1].executor.faults()
    assert rig.ask(nodes[0], other, (5, 6), max_tokens=5).wait().tokens() == greedy(well, (5, 6), 5)


def test_a_backbone_that_computes_again_is_not_accused_any_more(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)

    def stumble(*args: object) -> torch.Tensor:
        raise ValueError("once")

    with monkeypatch.context() as once:
        once.setattr(node.skeletons[opened(folder).model.backbone], "layer", stumble)
        rig.ask(node, epoch, (1, 2)).wait()
    assert [fault.reason for fault in node.executor.faults()] == [FaultReason.STEP_FAILED]
    again = rig.form(folder, [node])
    assert rig.ask(node, again, (1, 2), max_tokens=3).wait().tokens() == greedy(folder, (1, 2), 3)
    assert not node.executor.faults()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        accelerator_error("CUDA error: out of memory", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["the pool", "the driver", "a library"],
)
def test_a_step_that_finds_no_memory_ends_its_pipeline_and_accuses_nobody(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    trimmed, activations = threading.Event(), list[Callable[[], object]]()

    def trim(device: Device) -> None:
        assert activations[0]() is None, "what the step had computed is in the pool by now"
        trimmed.set()

    def too_much(*args: object) -> torch.Tensor:
        part = torch.zeros(8)
        activations.append(weakref.ref(part))
        raise error

    monkeypatch.setattr(Device, "trim", trim)
    with monkeypatch.context() as full:
        full.setattr(node.skeletons[opened(folder).model.backbone], "layer", too_much)
        ended = rig.ask(node, epoch, (1, 2)).wait().ended
    assert ended is not None
    assert ended.reason == "pipeline_gone"
    assert trimmed.wait(10)
    assert not node.executor.faults()
    again = rig.form(folder, [node])
    assert rig.ask(node, again, (1, 2), max_tokens=3).wait().tokens() == greedy(folder, (1, 2), 3)


def test_not_a_number_is_a_fault_and_no_token(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    skeleton = nodes[0].skeletons[opened(folder).model.backbone]
    real = skeleton.layer
    reader = rig.ask(nodes[1], epoch, (1, 2), max_tokens=0)
    reader.read(2)
    monkeypatch.setattr(skeleton, "layer", lambda *args: real(*args) * torch.nan)
    ended = reader.wait().ended
    assert ended is not None
    assert ended.reason == "pipeline_gone"
    assert [fault.reason for fault in nodes[1].executor.faults()] == [FaultReason.NOT_A_NUMBER]
    assert reader.tokens() == greedy(folder, (1, 2), len(reader.tokens()))


def test_a_unit_that_does_not_fit_is_refused_and_its_memory_given_back(rig: Rig, tiny: Tiny) -> None:
    folder, node = tiny("llama"), rig.node()
    node.prepare(folder)
    reservation = node.device.memory.reserve("llama", 10)
    backbone = opened(folder).model.backbone
    node.executor.landed(Landed(backbone, 1, {"odd": torch.ones(1)}, reservation))
    node.executor.landed(Landed("never prepared", 2, {}, node.device.memory.reserve("other", 10)))
    until(lambda: len(node.loader.refused) == 2 and not node.device.memory.used, "both are refused")
    (_, why), (_, unknown) = node.loader.refused
    assert "unknown ['odd']" in why
    assert "not prepared" in unknown
    node.land(folder, [1])
    until(lambda: node.device.memory.used, "a right one is taken")


def test_a_sick_device_keeps_nobody_waiting_for_a_drop(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, node = tiny("llama"), rig.node()
    node.prepare(folder)
    node.land(folder)

    def sticky(device: Device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Device, "trim", sticky)
    gone: list[frozenset[int]] = []
    told = node.changes
    node.executor.drop(opened(folder).model.backbone, (), gone.append)
    until(lambda: gone, "the drop is answered")
    assert gone == [frozenset(range(6))]
    assert node.device.memory.used == 0
    until(lambda: node.changes > told, "the device is accused")
    assert [fault.reason for fault in node.executor.faults()] == [FaultReason.DEVICE_ERROR]


def test_a_pipeline_that_a_sick_device_cannot_form_accuses_it(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = rig.node()

    def sticky(*about: object, **more: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(segment, "KvStore", sticky)
    epoch = rig.form(tiny("llama"), [node])
    until(lambda: formed(node, epoch, Phase.BROKEN) and node.executor.faults(), "both are reported")
    assert [fault.reason for fault in node.executor.faults()] == [FaultReason.DEVICE_ERROR]


def test_a_loader_that_is_gone_is_a_fault(rig: Rig) -> None:
    node = rig.node()
    assert node.executor.faults() == ()
    node.loader.ended = True
    (fault,) = node.executor.faults()
    assert (fault.reason, "loader thread has ended" in fault.message) == (FaultReason.DEVICE_ERROR, True)


def test_no_memory_for_its_blocks_is_said(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    node = rig.node(memory=1 << 20)
    epoch = rig.form(folder, [node], blocks=10_000)
    until(lambda: node.status(epoch), "the form is reported")
    status = node.status(epoch)
    assert status is not None
    assert status.phase is Phase.BROKEN
    assert "1048576" in status.reason
    assert node.device.memory.used == 0
    node.executor.dissolve(epoch, "it never was")
    until(lambda: not node.executor.pipelines(), "it is not reported any more")


def test_a_backbone_that_is_not_prepared_is_said(rig: Rig, tiny: Tiny) -> None:
    node, epoch = rig.node(), Epoch(1, 10**6)
    node.executor.form(formations(tiny("llama"), epoch, [node])[0])
    until(lambda: formed(node, epoch, Phase.BROKEN), "the form is reported")
    status = node.status(epoch)
    assert status is not None
    assert "not prepared" in status.reason


def test_books_that_do_not_add_up_are_counted(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("forebay_integrity_failures_total") or 0.0

    (node,), epoch = rig.pipeline(tiny("llama"), 1)
    before = count()
    rig.ask(node, epoch, (1, 2), max_tokens=2).wait()
    checked = threading.Event()
    real = BlockPool.check
    monkeypatch.setattr(BlockPool, "check", lambda pool: (real(pool), checked.set())[0])
    rig.ask(node, epoch, (1, 2), max_tokens=2).wait()
    assert checked.wait(10)
    assert count() == before
    monkeypatch.setattr(BlockPool, "free", 1)
    rig.ask(node, epoch, (1, 2), max_tokens=2).wait()
    until(lambda: count() == before + 1, "the failure is counted")
    monkeypatch.undo()


def test_an_operation_that_takes_too_long_is_seen_from_outside(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "OVERDUE_SECONDS", 0.05)
    (node,), epoch = rig.pipeline(tiny("llama"), 1)
    skeleton = node.skeletons[opened(tiny("llama")).model.backbone]
    real, hangs = skeleton.layer, threading.Event()

    def hang(*args: object) -> torch.Tensor:
        hangs.wait(10)
        return real(*args)

    monkeypatch.setattr(skeleton, "layer", hang)
    reader = rig.ask(node, epoch, (1, 2), max_tokens=2)
    until(node.executor.faults, "the fault is seen")
    assert [fault.reason for fault in node.executor.faults()] == [FaultReason.STEP_OVERDUE]
    hangs.set()
    assert len(reader.wait().tokens()) == 2
    until(lambda: not node.executor.faults(), "it is over")
