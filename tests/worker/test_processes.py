"""Processes that come and go: killed workers are forked again, and an operator may restart."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from safetensors.torch import load_file, save_file

from forebay_wire.v1 import fleet_pb2, model_pb2
from worker.fleet import SECONDS
from worker.system import System, pipeline, ref

BROKEN = fleet_pb2.PipelineState.BROKEN
PROMPT = [5, 77, 401, 3, 250, 9]


def test_a_killed_worker_is_forked_again_and_finds_its_models_prepared(system: System, model: model_pb2.Model) -> None:
    system.send("w0", prepare=fleet_pb2.Prepare(model=ref(model)))
    system.fleet.wait_for("w0", lambda report: report.prepared)
    before = {name: system.fleet.latest(name) for name in system.names}
    pid = system.kill("w1")
    report = system.fleet.wait_for("w1", lambda report: report.pid != pid and report.state == "Ready")
    assert report.incarnation != before["w1"].incarnation
    assert not report.holdings
    assert report.term == 0
    assert [each.backbone for each in report.prepared] == [model.backbone]  # by w0, through the zygote
    assert system.fleet.latest("w0").incarnation == before["w0"].incarnation
    # The canary: with a skeleton built before the fork, parallel operations still end in the child.
    last = len(model.units) - 1
    system.hold("w1", model, range(last + 1))
    epoch = system.form(model, (1, 20), ("w1", 0, last))
    assert len(system.generate("w1", model, epoch, [7] * 300, 2).tokens()) == 2


def test_a_killed_stage_breaks_the_pipeline_and_ends_its_requests(system: System, model: model_pb2.Model) -> None:
    epoch = system.form(model, (1, 21), ("w1", 0, 2), ("w0", 3, len(model.units) - 1))
    with system.generate("w0", model, epoch, PROMPT, 4) as stream:
        assert next(stream.call).WhichOneof("event") == "accepted"
        pid = system.kill("w1")
        with pytest.raises(grpc.RpcError) as raised:
            list(stream.call)
    assert dict(raised.value.trailing_metadata())["forebay-reason"] == "pipeline_gone"
    report = system.fleet.wait_for("w0", lambda report: pipeline(report, epoch).phase == BROKEN)
    assert pipeline(report, epoch).reason
    system.fleet.wait_for("w1", lambda report: report.pid != pid)


def test_a_worker_whose_answers_are_no_numbers_is_faulted_until_their_weights_have_left(
    system: System, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    shutil.copytree(tiny("llama"), sick)
    weights = load_file(sick / "model.safetensors")
    save_file({name: weight * float("nan") for name, weight in weights.items()}, sick / "model.safetensors")
    model = system.inspect(sick).model
    last = len(model.units) - 1
    system.hold("w1", model, range(last + 1))
    epoch = system.form(model, (1, 23), ("w1", 0, last))
    refusal = system.generate("w1", model, epoch, PROMPT, 3).refusal()
    assert refusal == (grpc.StatusCode.UNAVAILABLE, "pipeline_gone")
    report = system.fleet.wait_for("w1", lambda report: report.state == "Faulted")
    assert [(fault.reason, fault.backbone) for fault in report.faults] == [("NotANumber", model.backbone)]
    # Once the operator has found that it was the weights: it lets go of all of them.
    system.send("w1", dissolve=fleet_pb2.Dissolve(epoch=epoch))
    system.send("w1", drop=fleet_pb2.Drop(backbone=model.backbone))
    system.fleet.wait_for("w1", lambda report: report.state == "Ready" and not report.faults)


def test_a_worker_serves_on_whatever_a_models_own_config_makes_fail(
    system: System, tiny: Callable[[str], Path], tmp_path: Path, model: model_pb2.Model
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(tiny("gpt_neox"), odd)
    config = json.loads((odd / "config.json").read_text())
    config["rope_parameters"]["partial_rotary_factor"] = 2.0  # more dimensions to turn than a head has
    (odd / "config.json").write_text(json.dumps(config))
    broken = system.inspect(odd).model
    last = len(broken.units) - 1
    system.hold("w1", broken, range(last + 1))
    epoch = system.form(broken, (1, 24), ("w1", 0, last))
    refusal = system.generate("w1", broken, epoch, PROMPT, 3).refusal()
    assert refusal == (grpc.StatusCode.UNAVAILABLE, "pipeline_gone")
    report = system.fleet.wait_for("w1", lambda report: report.faults)
    assert [(fault.reason, fault.backbone) for fault in report.faults] == [("StepFailed", broken.backbone)]
    assert report.state == "Ready"
    system.send("w1", drop=fleet_pb2.Drop(backbone=broken.backbone))
    system.fleet.wait_for("w1", lambda report: not report.faults)


def test_workers_keep_what_they_hold_while_the_operator_is_away(system: System, model: model_pb2.Model) -> None:
    last = len(model.units) - 1
    system.hold("w0", model, range(last + 1))
    system.resident("w0", model.backbone, range(last + 1))
    epoch = system.form(model, (1, 22), ("w0", 0, last))
    stream = system.generate("w0", model, epoch, PROMPT, 3)
    before = system.fleet.latest("w0")
    system.fleet.stop()
    assert len(stream.tokens()) == 3
    system.begin_fleet()
    after = system.fleet.wait_for("w0", lambda report: report)
    system.fleet.wait_for("w1", lambda report: report)
    assert after.incarnation == before.incarnation
    assert after.holdings[0].order == before.holdings[0].order
    assert (after.bytes_read, after.term, after.counter) == (before.bytes_read, 1, 22)
    assert pipeline(after, epoch).phase == fleet_pb2.PipelineState.FORMED


def test_sigterm_lets_requests_end_and_leaves_nothing(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    with System(tmp_path) as own:
        model = own.inspect(tiny("llama")).model
        last = len(model.units) - 1
        epoch = own.form(model, (1, 1), ("w1", 0, 2), ("w0", 3, last))
        idle = own.form(model, (1, 2), ("w0", 0, 2), ("w1", 3, last))
        children = own.processes()
        with own.generate("w0", model, epoch, PROMPT, 5) as stream:
            assert next(stream.call).WhichOneof("event") == "accepted"
            own.zygote.send_signal(signal.SIGTERM)
            own.fleet.wait_for(
                "w0",  # w1, the head of the idle one, let it go
                lambda report: report.state == "Draining" and pipeline(report, idle).phase == BROKEN,
            )
            refused = own.generate("w0", model, epoch, PROMPT, 1).refusal()
            assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "pipeline_draining")
            own.hold("w0", model, range(last + 1))
            own.hold("w1", model, range(last + 1))
            tokens = [event for event in stream.call if event.WhichOneof("event") == "token"]
        assert len(tokens) == 5
        assert own.zygote.wait(SECONDS) == 0
        assert len(children) == 2
        assert not any(child.is_running() for child in children)
        assert own.sockets() == []
