"""Workers that share no folder for sockets, as on different nodes: their hop is Stage.Run between real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import grpc
import pytest

from engine.rig import greedy
from forebay_wire.v1 import engine_pb2, fleet_pb2, model_pb2
from worker.system import System, pipeline

PROMPT = [5, 77, 401, 3, 250, 9]
BROKEN = fleet_pb2.PipelineState.BROKEN


class Apart(System):
    """Says of no worker where its socket is."""

    def _stage(self, worker: str, first: int, last: int) -> model_pb2.Stage:
        stage = super()._stage(worker, first, last)
        stage.hop_unix = ""
        return stage

    def spread(self, model: model_pb2.Model, epoch: tuple[int, int]) -> model_pb2.Epoch:
        """A pipeline over all three."""
        units = range(len(model.units))
        for name in self.names:
            self.hold(name, model, units)
        return self.form(model, epoch, ("w0", 0, 0), ("w1", 1, 1), ("w2", 2, units[-1]))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with Apart(tmp_path_factory.mktemp("apart"), count=3) as system:
        yield system


def test_the_tokens_of_transformers(apart: Apart, tiny: Callable[[str], Path]) -> None:
    model = apart.inspect(tiny("llama")).model
    epoch = apart.spread(model, (1, 1))
    assert apart.generate("w2", model, epoch, PROMPT, 12).tokens() == greedy(tiny("llama"), PROMPT, 12)
    apart.clear()


@pytest.mark.parametrize("stopped", ["w0", "w1"])
def test_a_process_that_stands_still_is_gone(apart: Apart, tiny: Callable[[str], Path], stopped: str) -> None:
    """Its connections stay open, and its kernel goes on to answer for it."""
    model = apart.inspect(tiny("llama")).model
    epoch = apart.spread(model, (1, 2 + apart.names.index(stopped)))
    pid = apart.fleet.latest(stopped).pid
    got: list[int] = []

    def read(events: Iterable[engine_pb2.GenerateEvent]) -> None:
        for event in events:
            if event.WhichOneof("event") == "token":
                got.append(event.token.token)
                if len(got) == 3:
                    os.kill(pid, signal.SIGSTOP)

    with apart.generate("w2", model, epoch, PROMPT, 500) as stream:
        try:
            with pytest.raises(grpc.RpcError) as raised:
                read(stream.call)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            others = [name for name in apart.names if name != stopped]
            for name in others:
                apart.fleet.wait_for(name, lambda report: pipeline(report, epoch).phase == BROKEN)
            reasons = [pipeline(apart.fleet.latest(name), epoch).reason for name in others]
            assert any("silent" in reason for reason in reasons)
        finally:
            os.kill(pid, signal.SIGCONT)
    apart.fleet.wait_for(stopped, lambda report: pipeline(report, epoch).phase == BROKEN)
    assert got == greedy(tiny("llama"), PROMPT, len(got))
    apart.clear()
