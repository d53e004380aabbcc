"""A system of real operator and scripted neighbours; everything ends with the test."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from control.actors import Gateway, Worker, checkpoint, until
from control.operators import Operator, Source
from forebay_api.function import Function
from forebay_wire.v1 import model_pb2


class System:
    def __init__(self, state: Path) -> None:
        self.state = state
        self.checkpoints: dict[str, model_pb2.Model | tuple[str, str]] = {
            "file:///m/a": checkpoint("aaaa", "file:///m/a"),
            "file:///m/b": checkpoint("bbbb", "file:///m/b"),
        }
        self.source = Source()
        self.operator = Operator(state, self.source)
        self.workers: dict[str, Worker] = {}
        self.gateway = Gateway()
        self._stack = contextlib.AsyncExitStack()

    async def start(self, *functions: Function, workers: int = 2, **device: object) -> None:
        self.source.apply(*functions)
        await self.operator.start()
        self._stack.push_async_callback(self.operator.stop)
        for number in range(workers):
            await self.join(f"w{number}", **device)
        await self.connect(self.gateway)
        await until(lambda: len(self.gateway.table.functions) == len(functions))
        for name in [function.name for function in functions]:
            await until(lambda name=name: self.backbone(name) or self.gateway.route(name).refusal_reason)

    async def join(self, name: str, **device: object) -> Worker:
        worker = self.workers[name] = Worker(name, self.checkpoints, **device)
        self._stack.push_async_callback(worker.die)
        await worker.attach(self.operator.target)
        return worker

    async def connect(self, gateway: Gateway) -> None:
        self._stack.push_async_callback(gateway.die)
        await gateway.connect(self.operator.target)

    async def restart(self, functions: tuple[Function, ...]) -> None:
        """A new operator in place of the old one, which knew things that it does not."""
        await self.operator.stop()
        self.source = Source(*functions)
        self.operator = Operator(self.state, self.source)
        await self.operator.start()
        self._stack.push_async_callback(self.operator.stop)

    async def close(self) -> None:
        await self._stack.aclose()

    def backbone(self, name: str) -> str:
        route = self.gateway.route(name)
        return route.backbone if route else ""

    def routes(self, backbone: str = "aaaa") -> list[Any]:
        return [route for route in self.gateway.table.pipelines if route.backbone == backbone]

    def count(self, kind: str) -> int:
        """Commands of one kind, over all workers."""
        return sum(len(worker.commands(kind)) for worker in self.workers.values())

    async def view(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.operator.view())
        return found

    async def seen(self, name: str) -> dict[str, Any]:
        """One function as the view shows it."""
        found: dict[str, Any] = next(entry for entry in (await self.view())["functions"] if entry["name"] == name)
        return found


@pytest.fixture(autouse=True, scope="session")
def plain_tracebacks() -> None:
    """The pretty ones draw every local value, for seconds: all are silent meanwhile, and count as gone."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    system = System(tmp_path)
    yield system
    await system.close()
