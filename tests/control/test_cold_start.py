"""From a held request to a route, and to what is kept afterwards."""

from __future__ import annotations

from control.actors import Gateway, until
from control.conftest import System
from control.operators import function

IDLE = {"scaling": {"scaleToZeroGracePeriodSeconds": 0, "maxReplicas": 2}}
KEPT = {"scaling": {"scaleToZeroGracePeriodSeconds": 600, "maxReplicas": 2}}
WHOLE = list(range(8))


async def test_a_function_at_zero_is_ready_and_prepared(system: System) -> None:
    await system.start(function("a", "file:///m/a"))
    await until(lambda: all(worker.report.prepared for worker in system.workers.values()))
    seen = await system.seen("a")
    assert (seen["state"], seen["reason"], seen["ready"]) == ("Idle", "Ready", 0)
    conditions = {condition["type"]: condition for condition in seen["conditions"]}
    assert (conditions["Active"]["status"], conditions["Active"]["reason"]) == ("False", "NoTraffic")
    assert system.count("hold") == system.count("form") == 0


async def test_a_held_request_leads_to_a_route(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    route = system.routes()[0]
    head = system.workers[route.head]
    assert route.engine_unix == head.report.addresses.engine_unix
    form = head.commands("form")[0].form
    assert [stage.hop_unix for stage in form.stages] == [f"/{stage.worker}.hop" for stage in form.stages]
    covered = [unit for stage in form.stages for unit in range(stage.first, stage.last + 1)]
    assert covered == WHOLE


async def test_the_route_comes_with_the_report_not_with_the_order(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    for worker in system.workers.values():
        worker.mute()  # told, but says nothing
    system.gateway.ask("a", waiting=1)
    await until(lambda: system.count("form"))
    assert not system.routes()


async def test_a_pipeline_becomes_one_worker_as_units_land(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    for worker in system.workers.values():
        worker.landing = False
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    assert system.routes()[0].stages == 2
    progress = system.gateway.route("a").progress
    assert (progress.phase, progress.fraction) == ("Planning", 0.0)
    for worker in system.workers.values():
        worker.land(2)
    await until(lambda: system.gateway.route("a").progress.fraction > 0)
    assert (await system.seen("a"))["state"] == "Pipelined"
    system.gateway.ask("a", in_flight=1)
    for _ in WHOLE:
        for worker in system.workers.values():
            worker.land()
    await until(lambda: [route.stages for route in system.routes()] == [1])
    # One replica is wanted: the other worker lets go of all, and nothing of the first pipeline stays.
    await until(lambda: sorted(map(len, (worker.report.holdings for worker in system.workers.values()))) == [0, 1])
    await until(lambda: sorted(len(worker.runs) for worker in system.workers.values()) == [0, 1])
    seen = await system.seen("a")
    assert (seen["state"], seen["ready"], seen["desired"]) == ("Serving", 1, 1)


async def test_requests_of_two_gateways_at_once_are_one_cold_start(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    for worker in system.workers.values():
        worker.landing = False
    other = Gateway("other")
    await system.connect(other)
    for number in range(1, 6):
        system.gateway.ask("a", waiting=number)
        other.ask("a", waiting=number)
    await until(system.routes)
    await until(lambda: other.table == system.gateway.table)
    assert {
        command.form.epoch.counter for worker in system.workers.values() for command in worker.commands("form")
    } == {1}
    assert len((await system.view())["coldStarts"]) == 1
    assert (await system.seen("a"))["waiting"] == 10


async def test_back_to_zero_after_the_last_request(system: System) -> None:
    await system.start(function("a", "file:///m/a", **IDLE))
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    system.gateway.ask("a", in_flight=1)
    await until(lambda: [route.stages for route in system.routes()] == [1])
    system.gateway.ask("a", ended=True)
    await until(lambda: not any(worker.report.holdings for worker in system.workers.values()))
    await until(lambda: not system.routes())
    assert not any(worker.report.pipelines for worker in system.workers.values())
    assert (await system.seen("a"))["state"] == "Idle"
    system.gateway.ask("a", waiting=1)
    await until(system.routes)


async def test_what_still_runs_is_waited_for(system: System) -> None:
    await system.start(function("a", "file:///m/a", **IDLE), workers=1)
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    worker = system.workers["w0"]
    worker.serve(1)
    system.gateway.ask("a", ended=True)  # a gateway that lost sight of its request
    await until(lambda: worker.commands("drain"))
    await until(lambda: not system.routes())
    assert not worker.commands("dissolve")
    assert worker.holds["aaaa"] == WHOLE
    worker.serve(0)
    await until(lambda: not worker.report.holdings)


async def test_two_functions_side_by_side(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT), function("b", "file:///m/b", **KEPT))
    system.gateway.ask("a", waiting=1)
    system.gateway.ask("b", waiting=1)
    await until(lambda: system.routes("aaaa") and system.routes("bbbb"))
    view = await system.view()
    assert {entry["name"]: entry["ready"] for entry in view["functions"]} == {"a": 1, "b": 1}
    assert {model["backbone"] for model in view["models"]} == {"aaaa", "bbbb"}
    assert len({entry["epoch"] for entry in view["pipelines"]}) == len(view["pipelines"])


async def test_a_full_device_takes_turns(system: System) -> None:
    """Memory for one model only: the idle one leaves for the one that is asked for."""
    await system.start(
        function("a", "file:///m/a", **KEPT), function("b", "file:///m/b", **KEPT), workers=1, memory_bytes=9 << 20
    )
    worker = system.workers["w0"]
    system.gateway.ask("a", waiting=1)
    await until(lambda: system.routes("aaaa"))
    system.gateway.ask("a", ended=True)
    system.gateway.ask("b", waiting=1)
    await until(lambda: system.routes("bbbb"))
    assert worker.holds == {"bbbb": WHOLE}


async def test_suspended_and_pinned_functions_are_refused_at_once(system: System) -> None:
    await system.start(
        function("off", "file:///m/a", suspend=True), function("zero", "file:///m/a", replicas=0), workers=1
    )
    assert system.gateway.route("off").refusal_reason == "Suspended"
    assert system.gateway.route("zero").refusal_reason == "PinnedToZero"
    assert (await system.seen("off"))["state"] == "Suspended"


async def test_a_minimum_is_loaded_though_nobody_asks(system: System) -> None:
    await system.start(function("a", "file:///m/a", scaling={"minReplicas": 1}))
    await until(lambda: [route.stages for route in system.routes()] == [1])
    assert (await system.seen("a"))["state"] == "Serving"


async def test_the_timeline_tells_phase_by_phase(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    for worker in system.workers.values():
        worker.landing = False
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    for _ in WHOLE:
        for worker in system.workers.values():
            worker.land()
    await until(lambda: any(len(worker.holds.get("aaaa", [])) == 8 for worker in system.workers.values()))
    system.gateway.first_token("a")
    await until(lambda: not system.gateway.first_tokens)
    await until(lambda: [route.stages for route in system.routes()] == [1])
    (start,) = (await system.view())["coldStarts"]
    assert start["queuedAt"] <= start["plannedAt"] <= start["firstByteAt"] <= start["servableAt"]
    assert start["servableAt"] <= start["firstTokenAt"] + 0.05
    assert start["consolidatedAt"] >= start["servableAt"]
    assert start["predicted"]["promptTokens"] > 0
    stage_units = {
        (stage["worker"], unit) for stage in start["stages"] for unit in range(stage["first"], stage["last"] + 1)
    }
    assert stage_units <= {(load["worker"], load["unit"]) for load in start["units"]}
    assert {load["kind"] for load in start["units"]} == {"embedding", "layer", "head"}
