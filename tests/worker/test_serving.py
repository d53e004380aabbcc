"""A worker does what an operator's commands say, and answers with the tokens that transformers gives."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
from transformers import AutoModelForCausalLM

from forebay_wire.v1 import fleet_pb2, model_pb2
from worker.system import System, holding, pipeline, ref, resident_units

PROMPT = [5, 77, 401, 3, 250, 9]
BROKEN = fleet_pb2.PipelineState.BROKEN


@pytest.fixture(scope="session")
def answer(tiny: Callable[[str], Path]) -> list[int]:
    """The first tokens that transformers gives to PROMPT."""
    reference = AutoModelForCausalLM.from_pretrained(tiny("llama"), dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = torch.tensor([PROMPT])
        made = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False
        )
    return [int(token) for token in made[0, len(PROMPT) :]]


def units(model: model_pb2.Model) -> range:
    return range(len(model.units))


def test_attached_workers_say_what_they_are(system: System) -> None:
    reports = [system.fleet.latest(name) for name in system.names]
    assert len({report.pid for report in reports}) == len({report.incarnation for report in reports}) == 2
    for report in reports:
        assert (report.state, report.device.kind, report.device.memory_bytes) == ("Ready", "cpu", 10**9)
        assert report.device.compute
        assert report.addresses.engine_tcp.startswith("127.0.0.1:")


def test_inspect_answers_what_the_checkpoint_is(system: System, tiny: Callable[[str], Path]) -> None:
    answer = system.inspect(tiny("qwen2"))
    assert not answer.reason
    assert answer.model.architecture
    assert [unit.index for unit in answer.model.units] == list(range(answer.model.layers + 2))


def test_inspect_answers_why_not(system: System, tmp_path: Path) -> None:
    answer = system.inspect(tmp_path / "nothing")
    assert answer.reason == "ArtifactNotFound"
    assert "nothing" in answer.message


def test_an_inspection_is_carried_once(system: System, tmp_path: Path) -> None:
    system.inspect(tmp_path / "once")
    carried = [r for r in system.fleet.reports if any("once" in answer.message for answer in r.inspections)]
    system.fleet.wait_for("w0", lambda report: report.unix_us > carried[-1].unix_us)
    assert len(carried) == 1


def test_prepare_measures_and_a_second_one_does_not_measure_again(system: System, model: model_pb2.Model) -> None:
    prepare = fleet_pb2.Prepare(model=ref(model), probe=True)
    system.send("w0", prepare=prepare)
    system.send("w0", prepare=prepare)
    report = system.fleet.wait_for("w0", lambda report: any(each.layer for each in report.prepared))
    prepared = next(each for each in report.prepared if each.backbone == model.backbone)
    assert all(sample.seconds > 0 for sample in (*prepared.layer, *prepared.head))
    assert not prepared.error


def test_a_tokenizer_that_cannot_be_read_is_reported(
    system: System, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(tiny("opt") / name)
    (tmp_path / "tokenizer.json").write_text("{")
    broken = system.inspect(tmp_path).model
    system.send("w0", prepare=fleet_pb2.Prepare(model=ref(broken)))
    report = system.fleet.wait_for("w0", lambda report: any(each.error for each in report.prepared))
    assert "tokenizer" in next(each.error for each in report.prepared if each.error)


def test_units_land_in_the_order_told_and_each_is_read_once(system: System, model: model_pb2.Model) -> None:
    before, counted = system.fleet.latest("w0").bytes_read, _link_bytes(system)
    order = [3, 4, 2, 1]
    system.hold("w0", model, order, urgent=2)
    report = system.resident("w0", model.backbone, order)
    held = holding(report, model.backbone)
    assert held
    assert list(held.order) == order
    landed = sorted(held.units, key=lambda state: state.landed_unix_us)
    assert [state.unit for state in landed] == order
    assert all(0 < state.asked_unix_us <= state.landed_unix_us for state in held.units)
    expected = sum(model.units[unit].link_bytes for unit in order)
    assert report.bytes_read - before == expected
    assert report.resident_bytes == sum(model.units[unit].resident_bytes for unit in order)
    system.hold("w0", model, [*order, 5])
    report = system.resident("w0", model.backbone, [*order, 5])
    assert report.bytes_read - before == expected + model.units[5].link_bytes
    assert _link_bytes(system) - counted == expected + model.units[5].link_bytes


def test_a_hold_of_a_changed_checkpoint_is_refused(system: System, model: model_pb2.Model) -> None:
    other = model_pb2.Model(backbone="0123456789abcdef", uri=model.uri, dtype=model.dtype)
    system.hold("w0", other, [0])
    report = system.fleet.wait_for("w0", lambda report: holding(report, other.backbone))
    held = holding(report, other.backbone)
    assert held
    assert held.error.startswith("ChecksumMismatch: ")


def test_a_unit_that_does_not_exist_is_refused(system: System, model: model_pb2.Model) -> None:
    system.hold("w0", model, [0, 99])
    report = system.fleet.wait_for("w0", lambda report: holding(report, model.backbone))
    held = holding(report, model.backbone)
    assert held
    assert "99" in held.error


def test_one_stage_answers_as_transformers_does(system: System, model: model_pb2.Model, answer: list[int]) -> None:
    system.hold("w0", model, units(model))
    epoch = system.form(model, (1, 1), ("w0", 0, units(model)[-1]))
    assert system.generate("w0", model, epoch, PROMPT, len(answer)).tokens() == answer


def test_two_stages_answer_as_transformers_does(system: System, model: model_pb2.Model, answer: list[int]) -> None:
    last = units(model)[-1]
    epoch = system.form(model, (1, 2), ("w1", 0, 2), ("w0", 3, last))
    with system.generate("w0", model, epoch, PROMPT, len(answer)) as stream:
        events = iter(stream.call)
        assert next(events).WhichOneof("event") == "accepted"
        # Asked before anything is loaded: the tokens follow the units.
        system.hold("w1", model, range(3))
        system.hold("w0", model, range(3, last + 1))
        tokens = [event.token.token for event in events if event.WhichOneof("event") == "token"]
    assert tokens == answer


def test_prompts_are_texts_and_chats_too(system: System, model: model_pb2.Model) -> None:
    system.hold("w0", model, units(model))
    epoch = system.form(model, (1, 3), ("w0", 0, units(model)[-1]))
    chat = json.dumps([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}])
    more = {"messages_json": chat, "template_json": '{"enable_thinking": false}'}
    for prompt in ({"text": "Hello there"}, {"messages_json": chat}, more):
        assert len(system.generate("w0", model, epoch, prompt, 3).tokens()) == 3


@pytest.mark.parametrize(
    "messages", ["not json", "{}", "[]", '["hello"]', '[{"content": "x"}]', '[{"role": "user", "content": 7}]']
)
def test_wrong_messages_are_the_callers_fault(system: System, model: model_pb2.Model, messages: str) -> None:
    system.send("w0", prepare=fleet_pb2.Prepare(model=ref(model)))
    system.fleet.wait_for("w0", lambda report: any(each.backbone == model.backbone for each in report.prepared))
    stream = system.generate("w0", model, model_pb2.Epoch(term=1, counter=9), {"messages_json": messages}, 1)
    assert stream.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")


@pytest.mark.parametrize("template", ["not json", "[]", '{"a": {}}', '{"messages": 1}'])
def test_a_wrong_template_is_the_callers_fault(system: System, model: model_pb2.Model, template: str) -> None:
    system.send("w0", prepare=fleet_pb2.Prepare(model=ref(model)))
    system.fleet.wait_for("w0", lambda report: any(each.backbone == model.backbone for each in report.prepared))
    prompt = {"messages_json": '[{"role": "user", "content": "x"}]', "template_json": template}
    stream = system.generate("w0", model, model_pb2.Epoch(term=1, counter=9), prompt, 1)
    assert stream.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")


def test_refusals_have_a_status_and_a_reason(system: System, model: model_pb2.Model) -> None:
    system.hold("w0", model, units(model))
    epoch = system.form(model, (1, 4), ("w0", 0, units(model)[-1]))
    unknown = model_pb2.Epoch(term=1, counter=77)
    failed, invalid = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
    assert system.generate("w0", model, unknown, PROMPT, 1).refusal() == (failed, "pipeline_unknown")
    assert system.generate("w0", model, epoch, [], 1).refusal() == (invalid, "invalid_request")
    assert system.generate("w0", model, epoch, {}, 1).refusal() == (invalid, "invalid_request")
    too_long = system.generate("w0", model, epoch, PROMPT, model.max_model_len).refusal()
    assert too_long == (invalid, "context_length_exceeded")
    system.send("w0", drain=fleet_pb2.Drain(epoch=epoch))
    system.fleet.wait_for("w0", lambda report: pipeline(report, epoch).phase == fleet_pb2.PipelineState.DRAINED)
    assert system.generate("w0", model, epoch, PROMPT, 1).refusal() == (failed, "pipeline_draining")


def test_a_dissolved_pipeline_ends_its_requests_to_go_on_elsewhere(system: System, model: model_pb2.Model) -> None:
    epoch = system.form(model, (1, 5), ("w0", 0, units(model)[-1]))  # nothing is loaded: it cannot finish
    with system.generate("w0", model, epoch, PROMPT, 4) as stream:
        assert next(stream.call).WhichOneof("event") == "accepted"
        system.dissolve(epoch, "w0")
        with pytest.raises(grpc.RpcError) as raised:
            list(stream.call)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(raised.value.trailing_metadata())["forebay-reason"] == "pipeline_gone"


def test_a_silent_stream_has_heartbeats(system: System, model: model_pb2.Model) -> None:
    epoch = system.form(model, (1, 6), ("w0", 0, units(model)[-1]))
    with system.generate("w0", model, epoch, PROMPT, 4) as stream:
        kinds = [next(stream.call).WhichOneof("event") for _ in range(2)]
    assert kinds == ["accepted", "heartbeat"]


def test_a_prompt_of_megabytes_is_refused_before_it_is_read(system: System, model: model_pb2.Model) -> None:
    epoch = system.form(model, (1, 16), ("w0", 0, units(model)[-1]))
    with (
        system.generate("w0", model, epoch, {"text": "rivers " * 1_500_000}, 4) as stream,
        pytest.raises(grpc.RpcError, match="10500000 bytes") as raised,
    ):
        stream.tokens()
    assert dict(raised.value.trailing_metadata())["forebay-reason"] == "context_length_exceeded"


def test_a_client_that_leaves_frees_its_place(system: System, model: model_pb2.Model) -> None:
    epoch = system.form(model, (1, 7), ("w0", 0, units(model)[-1]))
    with system.generate("w0", model, epoch, PROMPT, 4) as stream:
        next(stream.call)
        report = system.fleet.wait_for("w0", lambda report: _open(report, epoch) == 1)
        assert pipeline(report, epoch).kv_blocks == 64
    report = system.fleet.wait_for("w0", lambda report: _open(report, epoch) == 0)
    assert pipeline(report, epoch).kv_blocks_free == 64


def test_a_pipeline_without_this_worker_is_reported_broken(system: System, model: model_pb2.Model) -> None:
    form = fleet_pb2.Form(
        epoch=model_pb2.Epoch(term=1, counter=8), model=ref(model), stages=[model_pb2.Stage(worker="w7", last=5)]
    )
    system.send("w0", form=form)
    report = system.fleet.wait_for("w0", lambda report: pipeline(report, form.epoch))
    assert pipeline(report, form.epoch).phase == BROKEN
    assert "w0" in pipeline(report, form.epoch).reason
    system.dissolve(form.epoch, "w0")


def test_drop_frees_memory_but_not_under_a_live_pipeline(system: System, model: model_pb2.Model) -> None:
    system.hold("w0", model, units(model))
    everything = system.resident("w0", model.backbone, units(model)).resident_bytes
    epoch = system.form(model, (1, 9), ("w0", 2, units(model)[-1]))
    system.send("w0", drop=fleet_pb2.Drop(backbone=model.backbone))
    report = system.resident("w0", model.backbone, units(model)[2:])
    assert report.resident_bytes == everything - sum(model.units[unit].resident_bytes for unit in (0, 1))
    system.dissolve(epoch, "w0")
    system.send("w0", drop=fleet_pb2.Drop(backbone=model.backbone, units=[3]))
    report = system.resident("w0", model.backbone, {2, 4, 5})
    assert 3 not in holding(report, model.backbone).order
    system.send("w0", drop=fleet_pb2.Drop(backbone=model.backbone))
    report = system.fleet.wait_for("w0", lambda report: not holding(report, model.backbone))
    assert (report.resident_bytes, report.kv_reserved_bytes) == (0, 0)
    assert _metric(system, "forebay_device_memory_bytes", 'state="used"') == 0
    system.hold("w0", model, units(model))
    system.resident("w0", model.backbone, units(model))


def test_a_unit_over_the_budget_is_an_error_in_the_report(system: System, tiny: Callable[[str], Path]) -> None:
    big = system.inspect(tiny("gpt_neox"), dtype="float32").model
    epoch = system.form(big, (1, 10), ("w0", 0, 0))
    system.dissolve(epoch, "w0")
    form = fleet_pb2.Form(
        epoch=model_pb2.Epoch(term=1, counter=11),
        model=ref(big),
        stages=[model_pb2.Stage(worker="w0", first=0, last=len(big.units) - 1)],
        kv_blocks=10**6,
        block_tokens=16,
        steps_in_flight=1,
        max_model_len=64,
    )
    system.send("w0", form=form)
    report = system.fleet.wait_for("w0", lambda report: pipeline(report, form.epoch))
    assert pipeline(report, form.epoch).phase == BROKEN
    assert "memory" in pipeline(report, form.epoch).reason
    system.dissolve(form.epoch, "w0")


def test_metrics_have_our_names_and_vllms(system: System, model: model_pb2.Model) -> None:
    system.hold("w0", model, units(model))
    system.form(model, (1, 12), ("w0", 0, units(model)[-1]))
    text = _scrape(system)
    for name in (
        "forebay_link_bytes_total",
        "forebay_units",
        "forebay_steps_total",
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:lora_requests_info",
        "vllm:cache_config_info",
    ):
        assert f"\n{name}{{" in text or f"\n{name} " in text, name


def test_commands_of_a_lower_term_are_refused(system: System, model: model_pb2.Model) -> None:
    before = _metric(system, "forebay_worker_commands_refused_total")
    system.raise_term()
    system.fleet.send("w0", term=system.term - 1, hold=fleet_pb2.Hold(model=ref(model), order=[1]))
    system.hold("w0", model, [2])  # after it on the same stream
    report = system.resident("w0", model.backbone, [2])
    assert resident_units(report, model.backbone) == {2}
    assert report.term == system.term
    assert _metric(system, "forebay_worker_commands_refused_total") == before + 1


def _open(report: fleet_pb2.WorkerReport, epoch: model_pb2.Epoch) -> int:
    state = pipeline(report, epoch)
    return state.running + state.waiting if state else 0


def _scrape(system: System, worker: str = "w0") -> str:
    with urllib.request.urlopen(system.fleet.latest(worker).addresses.metrics) as response:
        return str(response.read().decode())


def _link_bytes(system: System) -> float:
    return _metric(system, "forebay_link_bytes_total", 'kind="unit"')


def _metric(system: System, name: str, labels: str = "") -> float:
    key = f"{name}{{{labels}}} " if labels else f"{name} "
    return next(float(line.removeprefix(key)) for line in _scrape(system).splitlines() if line.startswith(key))
