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
    parts: Any = SimpleNamespace(text=SimpleNamespace(encode_text=slowly), checkpoint=checkpoint)
    executor: Any = Answering()
    engine = service.EngineService(executor, lambda backbone: parts, lambda: False)
    try:
        ask = engine_pb2.GenerateRequest(request_id="r", backbone="b", text="x")
        kinds = [event.WhichOneof("event") async for event in engine.Generate(ask, Mock())]
    finally:
        engine.close()
    assert kinds[:2] == ["heartbeat", "heartbeat"]
    assert kinds[-1] == "accepted"
