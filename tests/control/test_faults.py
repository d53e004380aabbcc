"""Workers, gateways and operators come and go."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from control.actors import Gateway, Worker, until
from control.conftest import System
from control.operators import Operator, Source, function
from forebay_operator import fleet
from forebay_operator.listen import CannotListen
from forebay_wire.v1 import fleet_pb2, fleet_pb2_grpc

IDLE = {"scaling": {"scaleToZeroGracePeriodSeconds": 0, "maxReplicas": 2}}
KEPT = {"scaling": {"scaleToZeroGracePeriodSeconds": 600, "maxReplicas": 2}}
WHOLE = list(range(8))


async def test_a_dead_worker_of_a_loading_pipeline_is_replaced(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT), workers=3)
    for worker in system.workers.values():
        worker.landing = False
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    first = system.routes()[0]
    head = system.workers.pop(first.head)
    await head.die()
    for worker in system.workers.values():
        worker.lose(head.name)
    await until(lambda: system.routes() and system.routes()[0].epoch.counter > first.epoch.counter)
    assert system.routes()[0].head in system.workers
    form = system.workers[system.routes()[0].head].commands("form")[-1].form
    assert {stage.worker for stage in form.stages} <= system.workers.keys()
    assert [unit for stage in form.stages for unit in range(stage.first, stage.last + 1)] == WHOLE
    await until(lambda: all(len(worker.runs) <= 1 for worker in system.workers.values()))


async def test_the_same_name_in_a_new_process_is_a_new_worker(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT), workers=1)
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    epoch = system.routes()[0].epoch.counter
    await system.join("w0")  # the old one is still there, and is put out
    await until(lambda: system.routes() and system.routes()[0].epoch.counter > epoch)
    assert system.workers["w0"].holds == {"aaaa": WHOLE}


async def test_weights_that_are_no_numbers_fail_their_function_and_no_third_worker(system: System) -> None:
    await system.start(
        function("a", "file:///m/a", **KEPT), function("b", "file:///m/b", **KEPT), workers=3, memory_bytes=12 << 20
    )
    sick: list[str] = []
    system.gateway.ask("a", waiting=1)
    while len(sick) < 2:
        await until(lambda: system.routes() and system.routes()[0].head not in sick)
        head = system.workers[system.routes()[0].head]
        sick.append(head.name)
        head.report.state = "Faulted"
        head.report.faults.add(reason="NotANumber", backbone="aaaa")
        head.report.pipelines[0].phase = fleet_pb2.PipelineState.BROKEN
        head.change()
    await until(lambda: not any(worker.holds for worker in system.workers.values()))
    assert (await system.seen("a"))["state"] == "Failed"
    assert (await system.seen("a"))["reason"] == "ModelLoadFailed"
    assert "NotANumber" in system.gateway.route("a").refusal_message
    for name in sick:  # as a worker does that let go of it
        worker = system.workers[name]
        del worker.report.faults[:]
        worker.report.state = "Ready"
        worker.change()
    system.gateway.ask("b", waiting=1)
    await until(lambda: system.routes("bbbb"))
    assert not system.routes()


async def test_who_said_that_it_leaves_is_not_lost(system: System) -> None:
    """As in every drain of a node and every roll-out."""
    await system.start(workers=2)
    before = {how: fleet.LOST.labels(how)._value.get() for how in ("left", "broken")}
    leaving = system.workers["w0"]
    leaving.report.state = "Draining"
    reports = leaving.reports
    leaving.change()
    await until(lambda: leaving.reports > reports)
    for worker in (leaving, system.workers["w1"]):
        await worker.die()

    def lost() -> dict[str, float]:
        return {how: fleet.LOST.labels(how)._value.get() - count for how, count in before.items()}

    await until(lambda: sum(lost().values()) == 2)
    assert lost() == {"left": 1, "broken": 1}


async def test_a_silent_worker_is_gone(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT), workers=2)
    system.gateway.ask("a", waiting=1)
    await until(lambda: [route.stages for route in system.routes()] == [1])
    serving = system.routes()[0].head
    system.workers[serving].mute()
    await until(lambda: system.routes() and system.routes()[0].head != serving)
    assert [worker["name"] for worker in (await system.view())["workers"]] == [({"w0", "w1"} - {serving}).pop()]


async def test_a_restarted_operator_adopts_what_runs(system: System) -> None:
    functions = (function("a", "file:///m/a", **KEPT),)
    await system.start(*functions)
    system.gateway.ask("a", waiting=1)
    await until(lambda: [route.stages for route in system.routes()] == [1])
    await until(lambda: sorted(len(worker.report.holdings) for worker in system.workers.values()) == [0, 1])
    system.gateway.ask("a", in_flight=1)
    before = (system.gateway.table.pipelines[0], {name: worker.holds for name, worker in system.workers.items()})
    told = {kind: system.count(kind) for kind in ("hold", "form", "drop", "drain", "dissolve")}
    await system.restart(functions)
    await until(lambda: system.gateway.table.term == 2 and system.routes())
    assert before == (
        system.gateway.table.pipelines[0],
        {name: worker.holds for name, worker in system.workers.items()},
    )
    # Also once it may drop and drain, it has no reason to.
    system.gateway.ask("a", waiting=1, in_flight=1)
    system.gateway.ask("a", ended=True)
    await until(lambda: system.gateway.acknowledged > 30)
    assert (await system.seen("a"))["state"] == "Serving"
    assert {kind: system.count(kind) for kind in told} == told


async def test_an_operator_restarted_while_loading_starts_nothing_twice(system: System) -> None:
    functions = (function("a", "file:///m/a", **KEPT),)
    await system.start(*functions)
    for worker in system.workers.values():
        worker.landing = False
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    await system.restart(functions)
    await until(lambda: system.gateway.table.term == 2 and system.routes())
    assert system.count("form") == len(system.workers)
    assert [route.epoch.term for route in system.routes()] == [1]
    for _ in WHOLE:
        for worker in system.workers.values():
            worker.land()
    await until(lambda: [(route.stages, route.epoch.term) for route in system.routes()] == [(1, 2)])


async def test_the_term_rises_above_what_a_worker_obeys(system: System) -> None:
    await system.start(workers=0)
    system.source.apply(function("a", "file:///m/a", **KEPT))
    worker = Worker("w0", system.checkpoints)
    worker.report.term = 41
    await worker.attach(system.operator.target)
    system.gateway.ask("a", waiting=1)
    await until(system.routes)
    assert (system.routes()[0].epoch.term, system.routes()[0].epoch.counter) == (42, 1)
    assert (system.state / "term").read_text().strip() == "42"
    await worker.die()


async def test_a_lost_gateway_freezes_scale_down(system: System) -> None:
    """Its requests may still run at the heads; nobody says that they ended."""
    await system.start(function("a", "file:///m/a", **IDLE))
    other = Gateway("other")
    await system.connect(other)
    other.ask("a", waiting=1)
    await until(lambda: [route.stages for route in system.routes()] == [1])
    system.gateway.ask("a", in_flight=1)
    other.ask("a")
    await other.die()
    system.gateway.ask("a", ended=True)
    acknowledged = system.gateway.acknowledged
    await until(lambda: system.gateway.acknowledged > acknowledged + 10)
    seen = await system.seen("a")
    assert seen["state"] == "Serving"
    conditions = {condition["type"]: condition for condition in seen["conditions"]}
    assert conditions["ScalingActive"]["reason"] == "MetricsUnavailable"


async def test_a_deleted_function_leaves_every_worker(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT), function("b", "file:///m/b", **KEPT))
    system.gateway.ask("a", waiting=1)
    system.gateway.ask("b", waiting=1)
    await until(lambda: system.routes("aaaa") and system.routes("bbbb"))
    system.source.apply(function("b", "file:///m/b", **KEPT))
    await until(lambda: not any("aaaa" in worker.holds for worker in system.workers.values()))
    await until(lambda: not system.routes("aaaa"))
    assert system.routes("bbbb")
    assert system.gateway.route("a") is None


async def test_another_uri_is_loaded_in_place_of_the_old(system: System) -> None:
    await system.start(function("a", "file:///m/a", **KEPT))
    system.gateway.ask("a", waiting=1)
    await until(lambda: system.routes("aaaa"))
    system.source.apply(function("a", "file:///m/b", generation=2, **KEPT))
    await until(lambda: system.routes("bbbb") and not system.routes("aaaa"))
    await until(lambda: not any("aaaa" in worker.holds for worker in system.workers.values()))
    assert system.backbone("a") == "bbbb"


async def test_a_missing_model_fails_the_function_until_corrected(system: System) -> None:
    await system.start(function("a", "file:///m/none"))
    seen = await system.seen("a")
    assert (seen["state"], seen["reason"]) == ("Failed", "ArtifactNotFound")
    conditions = {condition["type"]: condition for condition in seen["conditions"]}
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["ModelResolved"]["status"] == conditions["Ready"]["status"] == "False"
    assert system.gateway.route("a").refusal_reason == "ArtifactNotFound"
    system.checkpoints["file:///m/none"] = system.checkpoints["file:///m/a"]
    assert system.count("inspect") == 1
    system.source.apply(function("a", "file:///m/none", generation=2))  # touched: worth another look
    await until(lambda: system.backbone("a") == "aaaa")
    assert not system.gateway.route("a").refusal_reason
    assert (await system.seen("a"))["state"] == "Idle"


async def test_a_context_longer_than_the_models_names_both_numbers(system: System) -> None:
    await system.start(function("a", "file:///m/a"), workers=1)
    system.source.apply(function("a", "file:///m/a", generation=2, model={"uri": "file:///m/a", "maxModelLen": 9000}))
    await until(lambda: system.gateway.route("a").refusal_reason == "InvalidSpec")
    message = (await system.seen("a"))["message"]
    assert "9000" in message
    assert "512" in message


async def test_without_workers_nothing_is_known_of_the_model(system: System) -> None:
    await system.operator.start()
    system.source.apply(function("a", "file:///m/a"))
    await system.connect(system.gateway)
    await until(lambda: system.gateway.route("a"))
    conditions = {condition["type"]: condition for condition in (await system.seen("a"))["conditions"]}
    assert (conditions["ModelResolved"]["status"], conditions["ModelResolved"]["reason"]) == ("Unknown", "NoWorker")
    await system.operator.stop()


async def test_a_report_without_a_name_ends_its_stream(system: System) -> None:
    await system.start(workers=0)
    async with grpc.aio.insecure_channel(system.operator.target) as channel:
        call = fleet_pb2_grpc.FleetStub(channel).Attach()
        await call.write(fleet_pb2.WorkerReport())
        with pytest.raises(grpc.aio.AioRpcError, match="invalid"):
            await call.read()
    assert (await system.view())["workers"] == []


async def test_two_operators_do_not_share_an_address(system: System, tmp_path: Path) -> None:
    await system.start(workers=0)
    second = Operator(tmp_path, Source())
    with pytest.raises(CannotListen, match="another operator"):
        await second.start()
    assert (await system.view())["operator"]["term"] == 1  # and the first one is untouched


async def test_nothing_is_left_after_the_end(system: System, tmp_path: Path) -> None:
    await system.start(workers=1)
    assert (tmp_path / "operator.json").exists()
    await system.close()
    assert [path.name for path in tmp_path.iterdir()] == ["term"]
