"""A function's model changes: by another uri, or by other files under the same one."""

from __future__ import annotations

import pytest

from control.actors import checkpoint, until
from control.conftest import System
from control.operators import function

KEPT = {"scaling": {"scaleToZeroGracePeriodSeconds": 600, "maxReplicas": 2}}


async def warm(system: System) -> None:
    """``a`` is served by one worker that holds aaaa."""
    await system.start(function("a", "file:///m/a", **KEPT))
    system.gateway.ask("a", waiting=1)
    await until(lambda: [route.stages for route in system.routes()] == [1])
    system.gateway.ask("a", ended=True)


async def test_another_uri_serves_once_it_is_loaded(system: System) -> None:
    await warm(system)
    for worker in system.workers.values():
        worker.landing = False
    system.source.apply(function("a", "file:///m/b", generation=2, **KEPT))
    await until(lambda: system.routes("bbbb"))
    seen = await system.seen("a")
    assert (seen["backbone"], seen["previous"], seen["ready"]) == ("bbbb", "aaaa", 1)
    assert (seen["state"], seen["reason"]) == ("Serving", "Ready")
    reconciling = next(condition for condition in seen["conditions"] if condition["type"] == "Reconciling")
    assert "the model before" in reconciling["message"]
    assert system.backbone("a") == "aaaa"
    assert system.routes("aaaa")

    system.gateway.ask("a", in_flight=1)
    old = next(worker for worker in system.workers.values() if worker.runs and "aaaa" in worker.holds)
    old.serve(1)
    for worker in system.workers.values():
        worker.landing = True
        worker.land(8)
    await until(lambda: system.backbone("a") == "bbbb" and not system.routes("aaaa"))
    assert "aaaa" in old.holds, "a request runs there"
    system.gateway.ask("a", ended=True)
    old.serve(0)
    await until(lambda: not any("aaaa" in worker.holds for worker in system.workers.values()))
    assert [start["backbone"] for start in (await system.view())["coldStarts"]] == ["aaaa"], "nobody waited"


async def test_a_uri_that_leads_nowhere_ends_nothing_that_serves(system: System) -> None:
    await warm(system)
    system.source.apply(function("a", "file:///m/none", generation=2, **KEPT))
    await until(lambda: system.gateway.route("a").state == "Failed")
    route = system.gateway.route("a")
    assert (route.backbone, route.refusal_reason) == ("aaaa", "")
    assert system.routes("aaaa")
    seen = await system.seen("a")
    assert (seen["reason"], seen["ready"]) == ("ArtifactNotFound", 1)
    assert "goes on serving" in seen["message"]
    system.source.apply(function("a", "file:///m/a", generation=3, **KEPT))
    await until(lambda: system.gateway.route("a").state == "Serving")


async def test_files_that_changed_are_seen_when_loading_them_fails(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    system.checkpoints["file:///m/a"] = checkpoint("cccc", "file:///m/a")
    system.gateway.ask("a", waiting=1)
    await until(lambda: system.routes("cccc"))
    assert system.backbone("a") == "cccc"
    assert not any("aaaa" in worker.holds for worker in system.workers.values())


async def test_files_that_change_at_zero_are_seen_by_and_by(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay_operator.act.RETRY", 0.2)
    await system.start(function("a", "file:///m/a", **KEPT))
    system.checkpoints["file:///m/a"] = checkpoint("cccc", "file:///m/a")
    await until(lambda: system.backbone("a") == "cccc")
