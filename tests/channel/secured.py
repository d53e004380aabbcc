"""Operator, gateway and workers as processes that reach each other over TCP with certificates, as in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import openai
import psutil
import yaml

from channel.authority import Authority
from forebay_channel import Identity, Role, open_channel
from forebay_wire.v1 import view_pb2, view_pb2_grpc
from local.system import PATIENCE, free_port

DIRECTORY = Path(__file__).parent
RELEASE = "forebay"


@dataclass
class Secured:
    """``ports``: gRPC of the operator. ``folder`` is short, for the sake of sockets."""

    folder: Path
    authority: Authority = field(default_factory=Authority)
    operator_port: int = field(default_factory=free_port)
    gateway_port: int = field(default_factory=free_port)
    metrics: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def identity(self, role: Role) -> Identity:
        folder = self.folder / "tls" / role
        return Identity(folder, RELEASE) if folder.exists() else self.authority.identity(folder, role, RELEASE)

    def start(self, name: str, role: Role, *words: str, **environ: str) -> None:
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *words],
                stdout=log,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "FOREBAY_TLS": str(self.identity(role).folder),
                    "FOREBAY_RELEASE": RELEASE,
                    "FOREBAY_STATE": str(self.folder / name),
                    **environ,
                },
            )

    def start_operator(self, *functions: dict[str, Any]) -> None:
        file = self.folder / "functions.yaml"
        file.write_text(yaml.safe_dump_all(functions))
        self.start(
            "operator",
            Role.OPERATOR,
            str(DIRECTORY / "operator_process.py"),
            "-f",
            str(file),
            FOREBAY_OPERATOR=f"127.0.0.1:{self.operator_port}",
        )

    def start_gateway(self) -> None:
        self.start(
            "gateway",
            Role.GATEWAY,
            "-m",
            "forebay_gateway",
            FOREBAY_OPERATOR=f"localhost:{self.operator_port}",
            FOREBAY_PORT=str(self.gateway_port),
        )

    def start_worker(self, name: str, node: str) -> None:
        self.metrics[name] = free_port()
        self.start(
            name,
            Role.WORKER,
            *("-m", "forebay_worker", "serve", "--count", "1", "--device", "cpu", "--device-memory", "450MB"),
            FOREBAY_OPERATOR=f"localhost:{self.operator_port}",
            FOREBAY_NAME=name,
            FOREBAY_NODE=node,
            FOREBAY_LISTEN="127.0.0.1",
            FOREBAY_POD_UID=str(uuid.uuid4()),
            FOREBAY_SOCKETS=str(self.folder / node),
            FOREBAY_METRICS_PORT=str(self.metrics[name]),
        )

    def part_nodes(self) -> None:
        """From now on the processes cannot reach each other by sockets, as on different nodes."""
        for path in self.folder.glob("node-*/*.sock"):
            path.unlink()

    def client(self) -> openai.AsyncOpenAI:
        url = f"http://127.0.0.1:{self.gateway_port}/v1"
        return openai.AsyncOpenAI(base_url=url, api_key="none", timeout=PATIENCE, max_retries=0)

    async def until(self, holds: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """The first view for which ``holds`` is true, read as a standby operator may."""
        last: dict[str, Any] = {}
        target = f"127.0.0.1:{self.operator_port}"
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        async with open_channel(
                            target, (), identity=self.identity(Role.OPERATOR), role=Role.OPERATOR
                        ) as channel:
                            async for snapshot in view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest()):
                                last = json.loads(snapshot.json)
                                if holds(last):
                                    return last
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"never saw: {what}\n{json.dumps(last, indent=1)[:4000]}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def ports(self) -> dict[int, str]:
        """Every TCP port on which operator and workers listen for gRPC, and whose it is."""
        found = {}
        for name, process in self.processes.items():
            for each in _family(process.pid):
                for connection in each.net_connections("tcp"):
                    if name != "gateway" and connection.status == psutil.CONN_LISTEN:
                        found[connection.laddr.port] = name
        return {port: name for port, name in found.items() if port not in self.metrics.values()}


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    """Everything that is started has ended after it."""
    system = Secured(folder)
    try:
        yield system
    finally:
        left = [each for process in system.processes.values() for each in _family(process.pid)]
        for process in system.processes.values():
            process.terminate()
        for process in system.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        _, alive = psutil.wait_procs(left, timeout=10)
        for each in alive:
            each.kill()
        assert not alive, f"left running: {alive}"


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
