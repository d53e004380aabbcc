"""`forebay plan` in a cluster for a model that no function names: who may have it looked at, how often, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from rich.console import Console

from control.actors import Worker, checkpoint, until
from control.operators import function
from control.own_port import Led, asked, led
from forebay_cli import plan, preview, view
from forebay_operator import previews
from forebay_operator.cluster.run import ALLOWED
from forebay_operator.decide.seen import Snapshot
from forebay_operator.fleet import Fleet
from forebay_wire.v1 import fleet_pb2, preview_pb2

FUNCTION = """
apiVersion: forebay.dev/v1alpha1
kind: LLMFunction
metadata: {name: planned}
spec: {model: {uri: "file:///m/a"}}
"""


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[Led]:
    async with led(tmp_path, pools=("default", "empty")) as found:
        yield found


@contextlib.asynccontextmanager
async def worker(leader: Led, **checkpoints: Any) -> AsyncIterator[Worker]:
    found = Worker("w0", {f"file:///m/{name}": what for name, what in checkpoints.items()})
    await found.attach(leader.workers)
    await until(lambda: leader.parts.control.outcome.seen.workers)
    try:
        yield found
    finally:
        await found.die()


async def test_a_model_that_nobody_applied_is_planned_and_forgotten(leader: Led, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FUNCTION)
    async with worker(leader, a=checkpoint("aaaa", "file:///m/a")) as asked_one:
        model = await preview.look(leader.people, function("planned", "file:///m/a"))
        assert (model.backbone, len(model.units)) == ("aaaa", 8)
        seen = await view.look(leader.people)
        assert seen["models"] == []
        await asyncio.sleep(0.3)  # some passes
        assert leader.parts.control.outcome.seen.backbones == {}
        assert [command.WhichOneof("command") for command in asked_one.told] == ["inspect"]
        assert asked_one.told[0].inspect.credentials == ""
    (made,) = plan.plans_in(seen, (tmp_path / "a.yaml",), 64, "default", lambda _: model)
    assert [stage.worker for stage in made.cut.stages] == ["w0"]
    assert made.cut.prediction.first_token > 0
    assert not made.to_json()["predicted"]["computeMeasured"]
    told = StringIO()
    made.show(Console(file=told, width=200), wide=False)
    assert "first token after at least 0.7" in told.getvalue()


@pytest.mark.parametrize(
    ("named", "reason", "said"),
    [
        ({"uri": "/m/a"}, "InvalidSpec", "spec.model.uri: got '/m/a', expected file:///absolute/folder"),
        ({"uri": "ftp://host/m"}, "InvalidSpec", "spec.model.uri"),
        ({"uri": "https://user:secret@host/m"}, "InvalidSpec", "without user, password"),
        ({"uri": "file:///m/a", "dtype": "int3"}, "InvalidSpec", "spec.model.dtype"),
        ({"uri": "file:///m/a", "revision": "v1"}, "InvalidSpec", "spec.model.revision"),
        ({"uri": "file:///m/a", "pool": "../x"}, "InvalidSpec", "spec.pool"),
        ({"uri": "file:///m/a", "pool": "none"}, "PoolNotFound", "there is no WorkerPool none"),
        ({"uri": "file:///m/none"}, "ArtifactNotFound", "file:///m/none is not there"),
        ({"uri": "file:///m/odd"}, "UnsupportedArchitecture", "OddForCausalLM"),
        ({"uri": "file:///m/deep"}, "UnsupportedArchitecture", "expected at most"),
    ],
)
async def test_what_cannot_be_looked_at_is_said(leader: Led, named: dict[str, str], reason: str, said: str) -> None:
    odd, deep = ("UnsupportedArchitecture", "OddForCausalLM"), checkpoint("dddd", "file:///m/deep", layers=600)
    async with worker(leader, odd=odd, deep=deep) as one:
        answer = await asked(leader.people, **named)
        assert (answer.reason, answer.HasField("model")) == (reason, False)
        assert said in answer.message
        assert "secret" not in answer.message
        assert bool(one.told) == (reason not in ("InvalidSpec", "PoolNotFound")), "nobody is asked what no function may"


async def test_without_a_worker_that_is_said(leader: Led) -> None:
    answer = await asked(leader.people, "file:///m/a", pool="empty")
    assert (answer.reason, answer.message) == ("NoWorker", "no ready worker of pool empty is attached")
    wanted = function("planned", "file:///m/a")
    with pytest.raises(preview.Unseen, match="default/planned: NoWorker: no ready worker"):
        await preview.look(leader.people, wanted)
    with pytest.raises(view.OperatorAway):
        await preview.look("unix:/none", wanted)


async def test_a_secret_is_read_for_functions_only() -> None:
    secretly = {"uri": "hf://org/private", "credentials": {"secretRef": {"name": "hub"}}}
    with pytest.raises(preview.Unseen, match=r"default/a: spec.model.credentials: .* with spec.suspend: true"):
        await preview.look("unix:/nobody-is-asked", function("a", "", model=secretly))
    assert {field.name for field in preview_pb2.PreviewRequest.DESCRIPTOR.fields} == {
        "uri",
        "dtype",
        "revision",
        "pool",
    }


async def test_only_people_may_ask(leader: Led) -> None:
    """Not gateways, which the world talks to: what they come by does not have it, and the guard does not know it."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked(leader.workers, "file:///m/a")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "forebay_wire.v1.Preview" not in ALLOWED


class Slow:
    """Workers that have not answered yet, of one pool, with the questions that they were asked. ``patience``: of the
    operator, in seconds."""

    def __init__(self, *names: str, patience: float) -> None:
        self.names = names
        self.gone: set[str] = set()
        self.asked: list[tuple[str, fleet_pb2.Inspect]] = []
        seen = SimpleNamespace(pools=None, ready=lambda _: [SimpleNamespace(name=name) for name in self.names])
        self.previews = previews.Previews(cast("Fleet", self), lambda: cast("Snapshot", seen), patience=patience)

    def tell(self, worker: str, command: fleet_pb2.Command) -> bool:
        if worker in self.gone:
            return False
        self.asked.append((worker, command.inspect))
        return True

    async def look(self, model: str) -> tuple[str, str]:
        request = preview_pb2.PreviewRequest(uri=f"file:///m/{model}", dtype="auto", pool="default")
        answer = await self.previews.Look(request, cast("Any", None))
        return answer.reason, answer.message

    def answer(self, place: int) -> bool:
        return self.previews.hear(fleet_pb2.Inspection(id=self.asked[place][1].id, reason="ArtifactNotFound"))


async def test_looks_are_few_and_one_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow("w0", "w1", "w2", patience=0.01)
    assert await slow.look("a") == ("Resolving", f"worker {slow.asked[0][0]} did not answer in 0.01 s: try again later")
    assert "did not answer" in (await slow.look("a"))[1]
    assert len(slow.asked) == 1, "whoever asked is gone, and the worker is not"
    await slow.look("b")
    await slow.look("c")
    assert {worker for worker, _ in slow.asked} == {"w0", "w1", "w2"}
    assert (await slow.look("d"))[0] == "Queued"
    assert slow.answer(0)
    assert not slow.answer(0), "an inspection of somebody else's"
    assert (await slow.look("d"))[0] == "Resolving"
    assert len(slow.asked) == 4
    monkeypatch.setattr(previews, "LOST", 0.0)
    assert "did not answer" in (await slow.look("a"))[1], "answers that never come block nothing for ever"
    assert not slow.answer(3)


async def test_whoever_goes_does_not_make_room() -> None:
    """Or a caller that comes and goes could keep a worker from what functions need."""
    slow = Slow("w0", patience=60)
    for model in "abcd":
        call = asyncio.ensure_future(slow.look(model))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert [question.uri for _, question in slow.asked] == [f"file:///m/{model}" for model in "abc"]
    assert slow.answer(1)


async def test_who_asks_again_gets_the_answer_to_the_first_question() -> None:
    slow = Slow("w0", patience=60)
    calls = [asyncio.ensure_future(slow.look("a")) for _ in range(2)]
    await asyncio.sleep(0)
    assert slow.answer(0)
    assert await asyncio.gather(*calls) == [("ArtifactNotFound", "")] * 2
    assert len(slow.asked) == 1


async def test_a_worker_that_has_just_gone_is_passed_over() -> None:
    slow = Slow("w0", "w1", "w2", patience=0.01)
    slow.gone = {"w0", "w2"}
    assert (await slow.look("a"))[0] == "Resolving"
    assert [worker for worker, _ in slow.asked] == ["w1"]
    slow.gone.add("w1")
    assert (await slow.look("b"))[0] == "NoWorker"


async def test_an_answer_reaches_who_waits_and_makes_room() -> None:
    slow = Slow("w0", patience=60)
    for place in range(2):
        call = asyncio.ensure_future(slow.look("a"))
        await asyncio.sleep(0)
        assert slow.answer(place)
        assert await call == ("ArtifactNotFound", "")
