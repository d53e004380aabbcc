"""More models than a worker can be told of at once: they wait their turn, and nobody is put out for it."""

from __future__ import annotations

import pytest

from control.actors import checkpoint, until
from control.conftest import System
from control.operators import function
from forebay_operator import fleet, inspections, sent

QUEUE, MODELS = 48, 60
"""A shorter queue than the real one overruns with fewer models."""


@pytest.mark.timeout(120)
async def test_each_is_inspected_and_prepared_and_no_stream_overruns(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "COMMANDS", QUEUE)
    names = [f"m{number}" for number in range(MODELS)]
    for name in names:
        system.checkpoints[f"file:///{name}"] = checkpoint(name, f"file:///{name}", layers=2)
    overruns = fleet.LOST.labels("overrun")._value.get()
    system.source.apply(*(function(name, f"file:///{name}") for name in names))
    await system.operator.start()
    worker = await system.join("w0")
    await system.connect(system.gateway)
    try:
        await until(lambda: all(system.backbone(name) == name for name in names), 60)
        await until(lambda: {prepared.backbone for prepared in worker.report.prepared} >= set(names), 60)
        assert fleet.LOST.labels("overrun")._value.get() == overruns
        assert len(worker.commands("inspect")) == MODELS, "each once"
    finally:
        await system.operator.stop()


def test_a_worker_is_asked_a_few_questions_at_a_time() -> None:
    asked = inspections.Inspections()
    subjects = [inspections.Subject(f"file:///{number}", "auto") for number in range(inspections.AT_ONCE + 1)]
    questions = [asked.ask(subject, "w0", "w0-1", 1.0) for subject in subjects]
    assert all(questions[:-1])
    assert questions[-1] is None
    assert asked.ask(subjects[-1], "w1", "w1-1", 1.0)


def test_the_bounds_fit_into_a_worker_s_queue() -> None:
    assert inspections.AT_ONCE + sent.PREPARES < fleet.COMMANDS / 2
