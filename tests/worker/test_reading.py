"""A gateway hears from a head that still reads the prompt: silence would be taken for death."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from forebay_wire.v1 import engine_pb2
from forebay_worker import service
from forebay_worker.engine.request import Accepted, Ended, Request
from forebay_worker.model.generation import Defaults


class Answering:
    """An executor that takes everything and answers nothing."""

    def submit(self, epoch: object, request: Request, sink: Any) -> None:
        sink(Accepted(len(request.prompt)))
        sink(Ended())


async def test_who_reads_for_long_has_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HEARTBEAT_SECONDS", 0.05)

    def slowly(text: str, limit: int) -> list[int]:
        time.sleep(0.2)
        return [1, 2, 3]

    checkpoint = SimpleNamespace(model=SimpleNamespace(max_model_len=64))
    parts: Any = SimpleNamespace(text=SimpleNamespace(encode_text=slowly, sampling=Defaults()), checkpoint=checkpoint)
    executor: Any = Answering()
    engine = service.EngineService(executor, lambda backbone: parts, lambda: False)
    try:
        ask = engine_pb2.GenerateRequest(request_id="r", backbone="b", text="x")
        kinds = [event.WhichOneof("event") async for event in engine.Generate(ask, Mock())]
    finally:
        engine.close()
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
    try:
        assert [event async for event in engine.Generate(ask, Mock())]
    finally:
        engine.close()
    params = asked[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p, params.repetition_penalty) == taken
