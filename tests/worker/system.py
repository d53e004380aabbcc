"""A zygote with its workers as real processes, told what to do as an operator would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from forebay_wire.v1 import engine_pb2, engine_pb2_grpc, fleet_pb2, model_pb2
from worker.fleet import SECONDS, Fleet, Report

RESIDENT = fleet_pb2.UnitState.RESIDENT
START_SECONDS = 60.0
"""Importing torch on a busy machine."""


def run_worker(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m forebay_worker`` to its end."""
    command = [sys.executable, "-m", "forebay_worker", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=START_SECONDS, env={**os.environ, **variables}
    )


class System:
    """``folder`` is the state folder. Use as a context: everything has ended after it."""

    def __init__(self, folder: Path, *flags: str, count: int = 2) -> None:
        self.folder = folder
        self.address = f"unix:{folder / 'operator.sock'}"
        self.names = [f"w{index}" for index in range(count)]
        self.fleet = Fleet(self.address)
        self.term = 1
        self.log = (folder / "log").open("wb")
        command = (sys.executable, "-m", "forebay_worker", "serve", "--count", str(count), "--state", str(folder))
        self.zygote = subprocess.Popen(
            [
                *command,
                "--operator",
                f"unix:{folder}/nobody,{self.address}",
                "--device",
                "cpu",
                "--device-memory",
                "1GB",
                *flags,
            ],
            stdout=self.log,
            stderr=self.log,
        )

    def __enter__(self) -> System:
        for name in self.names:
            self.fleet.wait_for(name, lambda report: report.state == "Ready", START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.fleet.stop()
        self.log.close()

    def stop(self) -> None:
        children = self.processes()
        self.zygote.terminate()
        try:
            self.zygote.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.zygote.kill()
            self.zygote.wait()
        psutil.wait_procs(children, SECONDS)

    def processes(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.zygote.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def sockets(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "sockets").iterdir())

    def restart_fleet(self) -> None:
        """The operator ends, and another begins at the same address."""
        self.fleet.stop()
        self.begin_fleet()

    def begin_fleet(self) -> None:
        self.fleet = Fleet(self.address)

    def send(self, worker: str, **command: Any) -> None:
        """A command of the present term."""
        self.fleet.send(worker, term=self.term, **command)

    def raise_term(self) -> None:
        """Another leader, whom all workers have heard."""
        self.term += 1
        for name in self.names:
            self.send(name)
            self.fleet.wait_for(name, lambda report: report.term == self.term)

    def clear(self) -> None:
        """Dissolve every pipeline and drop every unit."""
        for name in self.names:
            report = self.fleet.latest(name)
            for state in report.pipelines:
                self.send(name, dissolve=fleet_pb2.Dissolve(epoch=state.epoch))
            for held in report.holdings:
                self.send(name, drop=fleet_pb2.Drop(backbone=held.model.backbone))
            self.fleet.wait_for(name, lambda report: not report.pipelines and not report.holdings)

    def inspect(self, folder: Path, worker: str = "w0", dtype: str = "auto") -> fleet_pb2.Inspection:
        ask = f"{folder}:{dtype}"
        self.send(worker, inspect=fleet_pb2.Inspect(id=ask, uri=folder.as_uri(), dtype=dtype))
        return self.fleet.wait(lambda: self.fleet.inspections.pop(ask, None))

    def hold(self, worker: str, model: model_pb2.Model, units: Iterable[int], urgent: int = 0) -> None:
        self.send(worker, hold=fleet_pb2.Hold(model=ref(model), order=units, urgent=urgent))

    def resident(self, worker: str, backbone: str, units: Iterable[int]) -> Report:
        """The report in which exactly ``units`` are resident."""
        return self.fleet.wait_for(worker, lambda report: resident_units(report, backbone) == set(units))

    def form(self, model: model_pb2.Model, epoch: tuple[int, int], *stages: tuple[str, int, int]) -> model_pb2.Epoch:
        """Form a pipeline at all its workers, and wait until they say so."""
        name = model_pb2.Epoch(term=epoch[0], counter=epoch[1])
        form = fleet_pb2.Form(
            epoch=name,
            model=ref(model),
            stages=[self._stage(*stage) for stage in stages],
            kv_blocks=64,
            block_tokens=16,
            steps_in_flight=1,
            max_model_len=model.max_model_len,
        )
        for worker, *_ in stages:
            self.send(worker, form=form)
        for worker, *_ in stages:
            self.fleet.wait_for(worker, lambda report: pipeline(report, name))
        return name

    def dissolve(self, epoch: model_pb2.Epoch, *workers: str) -> None:
        for worker in workers:
            self.send(worker, dissolve=fleet_pb2.Dissolve(epoch=epoch))
        for worker in workers:
            self.fleet.wait_for(worker, lambda report: not pipeline(report, epoch))

    def generate(self, head: str, model: model_pb2.Model, epoch: model_pb2.Epoch, prompt: Any, count: int) -> Stream:
        address = self.fleet.latest(head).addresses.engine_unix
        return Stream(
            f"unix:{address}",
            engine_pb2.GenerateRequest(
                request_id=f"{head}-{epoch.term}.{epoch.counter}-{time.monotonic_ns()}",
                epoch=epoch,
                backbone=model.backbone,
                sampling=engine_pb2.Sampling(max_tokens=count, seed=1, temperature=0, ignore_eos=True),
                **({"token_ids": engine_pb2.TokenIds(ids=prompt)} if isinstance(prompt, list) else prompt),
            ),
        )

    def kill(self, worker: str) -> int:
        """SIGKILL; returns the pid that was."""
        pid = self.fleet.latest(worker).pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def _stage(self, worker: str, first: int, last: int) -> model_pb2.Stage:
        addresses = self.fleet.latest(worker).addresses
        return model_pb2.Stage(
            worker=worker, first=first, last=last, hop_unix=addresses.hop_unix, hop_tcp=addresses.hop_tcp
        )


@dataclass
class Stream:
    """One Generate call."""

    target: str
    request: engine_pb2.GenerateRequest

    def __enter__(self) -> Stream:
        self.channel = grpc.insecure_channel(self.target)
        self.call = engine_pb2_grpc.EngineStub(self.channel).Generate(self.request, timeout=SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self.channel.close()

    def tokens(self) -> list[int]:
        """All tokens, to the end. Raises grpc.RpcError."""
        with self:
            events = [event for event in self.call if event.WhichOneof("event") != "heartbeat"]
        assert events[0].WhichOneof("event") == "accepted"
        tokens = [event.token for event in events[1:]]
        assert [token.index for token in tokens] == list(range(len(tokens)))
        return [token.token for token in tokens]

    def refusal(self) -> tuple[grpc.StatusCode, str]:
        """(status, forebay-reason) of a call that must fail."""
        try:
            tokens = self.tokens()
        except grpc.RpcError as error:
            return error.code(), dict(error.trailing_metadata() or ()).get("forebay-reason", "")
        raise AssertionError(f"answered {tokens}")


def ref(model: model_pb2.Model) -> model_pb2.ModelRef:
    return model_pb2.ModelRef(backbone=model.backbone, uri=model.uri, dtype=model.dtype)


def holding(report: Report, backbone: str) -> fleet_pb2.Holding | None:
    return next((holding for holding in report.holdings if holding.model.backbone == backbone), None)


def resident_units(report: Report, backbone: str) -> set[int]:
    held = holding(report, backbone)
    return {state.unit for state in held.units if state.phase == RESIDENT} if held else set()


def pipeline(report: Report, epoch: model_pb2.Epoch) -> fleet_pb2.PipelineState | None:
    return next((state for state in report.pipelines if state.epoch == epoch), None)
