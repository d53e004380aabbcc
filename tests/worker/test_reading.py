"""A gateway hears from a head that still reads the prompt: silence would be taken for death."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from jinja2.sandbox import SandboxedEnvironment

from forebay_wire.v1 import engine_pb2
from forebay_worker import reading, service
from forebay_worker.engine.request import Accepted, Ended, Request
from forebay_worker.model.generation import Defaults

SECONDS = 20.0


class Answering:
    """An executor that takes everything and answers nothing."""

    def submit(self, epoch: object, request: Request, sink: Any) -> None:
        sink(Accepted(len(request.prompt)))
        sink(Ended())


async def test_who_reads_for_long_has_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HEARTBEAT_SECONDS", 0.05)

    heard = threading.Event()

    def slowly(text: str, limit: int) -> list[int]:
        heard.wait(SECONDS)
        return [1, 2, 3]

    checkpoint = SimpleNamespace(model=SimpleNamespace(max_model_len=64))
    parts: Any = SimpleNamespace(text=SimpleNamespace(encode_text=slowly, sampling=Defaults()), checkpoint=checkpoint)
    executor: Any = Answering()
    engine = service.EngineService(executor, lambda backbone: parts, lambda: False)
    ask = engine_pb2.GenerateRequest(request_id="r", backbone="b", text="x")
    kinds: list[str | None] = []
    async for event in engine.Generate(ask, Mock()):
        kinds.append(event.WhichOneof("event"))
        if kinds == ["heartbeat", "heartbeat"]:
            heard.set()
    assert kinds[:2] == ["heartbeat", "heartbeat"]
    assert kinds[-1] == "accepted"


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({}, (0.6, 0.95, 20, 0.0, 1.1)),
        ({"temperature": 0, "top_k": 0, "repetition_penalty": 1}, (0.0, 0.95, 0, 0.0, 1.0)),
        ({"temperature": 0.5, "top_p": 1, "min_p": 0.25}, (0.5, 1.0, 20, 0.25, 1.1)),
    ],
    ids=["nothing", "all off", "some"],
)
async def test_what_a_caller_leaves_out_the_model_says(said: dict[str, float], taken: tuple[float, ...]) -> None:
    asked: list[Request] = []

    class Taking(Answering):
        def submit(self, epoch: object, request: Request, sink: Any) -> None:
            asked.append(request)
            super().submit(epoch, request, sink)

    text = SimpleNamespace(sampling=Defaults(temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.1))
    parts: Any = SimpleNamespace(text=text, checkpoint=SimpleNamespace(model=SimpleNamespace(max_model_len=64)))
    executor: Any = Taking()
    engine = service.EngineService(executor, lambda backbone: parts, lambda: False)
    ids, sampling = engine_pb2.TokenIds(ids=[1]), engine_pb2.Sampling(**said)
    ask = engine_pb2.GenerateRequest(request_id="r", backbone="b", token_ids=ids, sampling=sampling)
    assert [event async for event in engine.Generate(ask, Mock())]
    params = asked[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p, params.repetition_penalty) == taken


async def test_a_model_that_reads_without_end_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.2)
    back, threads = threading.Event(), list[threading.Thread]()
    desk = reading.Reading()

    def stick() -> None:
        threads.append(threading.current_thread())
        back.wait()

    with pytest.raises(reading.Overdue, match="did not finish it within 0 s"):
        await desk.read("stuck", stick)
    with pytest.raises(reading.Overdue, match="has not come back from an earlier one"):
        await desk.read("stuck", lambda: 1)
    monkeypatch.setattr(reading, "PATIENCE", SECONDS)
    assert await desk.read("other", lambda: 2) == 2
    back.set()
    threads[0].join(SECONDS)
    assert await desk.read("stuck", lambda: 3) == 3


async def test_a_template_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.2)
    desk = reading.Reading()
    template = SandboxedEnvironment().from_string(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
        "{% endfor %}"
    )
    threads: list[threading.Thread] = []

    def render() -> None:
        threads.append(threading.current_thread())
        template.render()

    with pytest.raises(reading.Overdue):
        await desk.read("b", render)
    threads[0].join(SECONDS)
    assert not threads[0].is_alive()
    monkeypatch.setattr(reading, "PATIENCE", SECONDS)
    assert await desk.read("b", lambda: 1) == 1


async def test_prompts_of_one_backbone_are_read_one_after_another_though_a_caller_leaves() -> None:
    desk, go_on, begun, order = reading.Reading(), threading.Event(), list[int](), list[int]()

    def read(number: int) -> None:
        begun.append(number)
        go_on.wait(SECONDS)
        order.append(number)

    tasks = [asyncio.create_task(desk.read("b", partial(read, number))) for number in range(3)]
    async with asyncio.timeout(SECONDS):
        while not begun:  # noqa: ASYNC110  # set in a thread
            await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.sleep(0.05)
    assert begun == [0]
    go_on.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 1, 2]


async def test_what_reading_raises_is_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        await reading.Reading().read("b", refuse)
