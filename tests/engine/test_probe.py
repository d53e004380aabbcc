"""Measuring a device leaves it as it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import device
from engine.rig import Rig, greedy, opened, until
from forebay_worker import probe
from forebay_worker.formation import Probe
from forebay_worker.model.skeleton import Skeleton

Tiny = Callable[[str], Path]
WAIT = 0.02


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("landed", [False, True])
def test_a_layer_and_the_head_are_measured(rig: Rig, tiny: Tiny, family: str, landed: bool) -> None:
    folder = tiny(family)
    node = rig.node()
    node.prepare(folder)
    if landed:
        node.land(folder)
    probes: list[Probe] = []
    node.executor.probe(opened(folder).model.backbone, probes.append)
    until(lambda: probes, "measured")
    assert [sample.tokens for sample in probes[0].layer] == [1, 16, 64, 256]
    assert [sample.tokens for sample in probes[0].head] == [1]
    assert all(sample.seconds > 0 for sample in probes[0].layer + probes[0].head)
    epoch = rig.form(folder, [node])
    if not landed:
        assert node.skeletons[opened(folder).model.backbone].resident == set()
        node.land(folder)
    assert rig.ask(node, epoch, (1, 2), max_tokens=4).wait().tokens() == greedy(folder, (1, 2), 4)


def test_without_memory_there_are_no_samples(rig: Rig, tiny: Tiny) -> None:
    node = rig.node(memory=1000)
    node.prepare(tiny("llama"))
    probes: list[Probe] = []
    node.executor.probe(opened(tiny("llama")).model.backbone, probes.append)
    until(lambda: probes, "measured")
    assert probes[0].layer == probes[0].head == ()


@pytest.mark.skipif(device.KIND != "cpu", reason="what a GPU computes waits for no core")
def test_waiting_for_a_core_is_not_computing(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Skeleton.layer

    def late(*given: Any) -> torch.Tensor:
        time.sleep(WAIT)
        return compute(*given)

    monkeypatch.setattr(Skeleton, "layer", late)
    monkeypatch.setattr(probe, "SECONDS", 10.0)  # for all sizes by one thread, however busy the machine is
    node = rig.node()
    node.prepare(tiny("llama"))
    probes: list[Probe] = []
    node.executor.probe(opened(tiny("llama")).model.backbone, probes.append)
    until(lambda: probes, "measured")
    assert [sample.tokens for sample in probes[0].layer] == [1, 16, 64, 256]
    assert all(0 < sample.seconds < WAIT for sample in probes[0].layer)
