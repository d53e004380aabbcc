"""The operator as a process: where it listens, what it serves, how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control.actors import until
from control.conftest import System
from control.operators import Operator, Source, function
from forebay_operator import control
from forebay_operator.config import InvalidSetting, OperatorConfig
from forebay_operator.fleet import COMMANDS, Fleet
from forebay_operator.listen import CannotListen, listen
from forebay_operator.term import Term
from forebay_wire.v1 import fleet_pb2, fleet_pb2_grpc


@asynccontextmanager
async def streams(folder: Path) -> AsyncIterator[tuple[Fleet, fleet_pb2_grpc.FleetStub]]:
    """A fleet that workers can attach to."""
    target = f"unix:{folder}/fleet.sock"
    fleet = Fleet(Term(folder / "term"), wake=lambda _: None, inspected=lambda _: None)
    server = grpc.aio.server()
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    server.add_insecure_port(target)
    await server.start()
    async with grpc.aio.insecure_channel(target) as channel:
        yield fleet, fleet_pb2_grpc.FleetStub(channel)
    await server.stop(0)


class TestConfig:
    def test_names_the_variable_and_what_is_right(self) -> None:
        with pytest.raises(InvalidSetting, match=r"FOREBAY_METRICS_PORT='x': expected a port number"):
            OperatorConfig.from_env({"FOREBAY_METRICS_PORT": "x"})

    def test_defaults_to_a_socket_in_the_state_folder(self) -> None:
        config = OperatorConfig.from_env({"FOREBAY_STATE": "/s"})
        assert (config.state, config.address, config.metrics_port) == (Path("/s"), "unix:/s/operator.sock", None)


class TestListening:
    async def test_a_taken_port_is_refused(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(CannotListen, match=address):
                listen(grpc.aio.server(options=[("grpc.so_reuseport", 0)]), address)

    @pytest.mark.parametrize("address", ["", "here", "here:x", ":1", "unix:" + "/long" * 40])
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(CannotListen, match=r"address|path"):
            listen(grpc.aio.server(), address)

    async def test_a_socket_left_by_a_killed_operator_is_taken_over(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "operator.sock"))
        operator = Operator(tmp_path, Source())
        await operator.start()
        assert await operator.view()
        await operator.stop()


class TestServing:
    async def test_health(self, system: System) -> None:
        await system.start(workers=0)
        async with grpc.aio.insecure_channel(system.operator.target) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_view_has_what_its_readers_need(self, system: System) -> None:
        await system.start(function("a", "file:///m/a", scaling={"minReplicas": 1}), workers=1)
        await until(system.routes)
        view = await system.view()
        assert view.keys() == {"functions", "workers", "pipelines", "models", "coldStarts", "operator"}
        (worker,) = view["workers"]
        assert worker["holds"] == {"aaaa": list(range(8))}
        assert worker["loading"] == {}
        (pipeline,) = view["pipelines"]
        assert pipeline["epoch"] == "1.1"
        assert pipeline["stages"] == [{"worker": "w0", "first": 0, "last": 7}]
        assert pipeline["kvBlocksFree"] == pipeline["kvBlocks"] > 0
        assert view["functions"][0]["url"] == "http://127.0.0.1:8080/default/a"
        assert view["models"][0]["totalBytes"] == 7 << 20
        assert view["operator"]["term"] == 1

    async def test_a_pass_that_fails_ends_nothing(self, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
        decide = control.next_steps
        await system.start(function("a", "file:///m/a"), workers=1)
        monkeypatch.setattr(control, "next_steps", lambda *_: 1 / 0)
        system.gateway.ask("a", waiting=1)
        before = system.gateway.acknowledged
        await until(lambda: system.gateway.acknowledged > before + 3)
        assert (await system.seen("a"))["waiting"] == 1  # reporting goes on
        monkeypatch.setattr(control, "next_steps", decide)
        await until(system.routes)

    async def test_a_worker_that_reads_nothing_is_put_out(self, tmp_path: Path) -> None:
        async with streams(tmp_path) as (fleet, stub):
            call = stub.Attach()
            await call.write(fleet_pb2.WorkerReport(name="w0", incarnation="1"))
            await until(lambda: fleet.workers)
            long = fleet_pb2.Hold(order=range(100_000))
            told = 0
            while fleet.tell("w0", fleet_pb2.Command(hold=long)):
                told += 1
                await asyncio.sleep(0)
            assert told >= COMMANDS
            await until(lambda: not fleet.workers)
            call.cancel()

    async def test_workers_that_have_prepared_the_same_share_the_set(self, tmp_path: Path) -> None:
        async with streams(tmp_path) as (fleet, stub):
            calls = []
            for name, backbones in {"w0": "ab", "w1": "ba", "w2": "b"}.items():
                calls.append(stub.Attach())
                prepared = [fleet_pb2.Prepared(backbone=backbone) for backbone in backbones]
                await calls[-1].write(fleet_pb2.WorkerReport(name=name, incarnation="1", prepared=prepared))
            await until(lambda: len(fleet.workers) == 3)
            found = [fleet.workers[name].seen.prepared for name in ("w0", "w1", "w2")]
            assert found == [{"a", "b"}, {"a", "b"}, {"b"}]
            assert found[0] is found[1]
            for call in calls:
                call.cancel()

    async def test_metrics_are_served_where_asked(self, tmp_path: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        operator = Operator(tmp_path, Source())
        operator.config = replace(operator.config, metrics_port=port)
        await operator.start()
        text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        await operator.stop()
        assert "forebay_workers_attached" in text
        assert "forebay_cold_start_seconds" in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["-f", "/no/such.yaml"], "/no/such.yaml"), ([], "-f/--file")],
)
def test_wrong_input_is_one_clear_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "forebay_operator", *arguments],
        env={"FOREBAY_STATE": str(tmp_path / "state"), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert line in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_sigterm_is_a_clean_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: forebay.dev/v1alpha1\nkind: LLMFunction\nmetadata: {name: a}\nspec: {model: {uri: file:///m/a}}\n"
    )
    state = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-m", "forebay_operator", "-f", str(tmp_path / "a.yaml")],
        env={"FOREBAY_STATE": str(state), "PYTHONPATH": ":".join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert line["event"] == "operator serves"
        process.terminate()
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    assert [path.name for path in state.iterdir()] == ["term"]
