"""`forebay explain`: why there are so many replicas, in words, in numbers and one by one as it is decided."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.actors import until
from control.conftest import System
from control.operators import function
from forebay_cli import explain

NOW = 1_700_000_000.0
Item = dict[str, Any]


def decision(at: float, desired: int, **more: object) -> Item:
    plain = {"current": 1, "reason": "Mean", "limit": "", "message": f"{desired} replicas", "inputs": []}
    return {"time": at, "desired": desired, **plain, "paid": [], "received": [], **more}


NEWEST = decision(
    NOW - 100.0,
    3,
    current=2,
    limit="maxReplicas",
    message="41 requests in flight and held: 3 replicas",
    inputs=[{"name": "requests", "value": 41.25, "sampledAt": NOW - 2.0, "source": "Prometheus"}],
    received=["got w1 of ns/b: idle for 40 s"],
)
OLDER = decision(NOW - 7300.0, 1, message="1 request: 1 replica")


def seen(**more: object) -> Item:
    scaling = {**NEWEST, "time": NOW - 1.0, "received": [], "decisions": [NEWEST, OLDER]}
    return {"namespace": "ns", "name": "a", "conditions": [], "scaling": scaling, **more}


def view(*functions: Item) -> Item:
    return {"functions": list(functions)}


def test_it_reads_as_a_sentence_then_numbers_then_what_was_before() -> None:
    assert explain.text(seen(), NOW).splitlines() == [
        "ns/a: 41 requests in flight and held: 3 replicas",
        "3 wanted, 2 answer (Mean, limited by maxReplicas), for 2 min",
        "",
        "INPUT      VALUE   AGE   SOURCE",
        "requests   41.25   2 s   Prometheus",
        "",
        "AGE     DESIRED   CURRENT   REASON   LIMIT         MESSAGE",
        "2 min   3         2         Mean     maxReplicas   41 requests in flight and held: 3 replicas; "
        "got w1 of ns/b: idle for 40 s",
        "2 h     1         1         Mean     -             1 request: 1 replica",
    ]


def test_blindness_is_said_beside() -> None:
    message = "no answer within 5 s: nothing is scaled down"
    blind = {"type": "ScalingActive", "status": "False", "reason": "PrometheusTimeout", "message": message}
    said = explain.text(seen(conditions=[blind]), NOW).splitlines()
    assert said[2] == "blind (PrometheusTimeout): no answer within 5 s: nothing is scaled down"


def test_before_the_first_pass_there_is_nothing_to_say() -> None:
    for nothing in ({"scaling": None}, {}):
        item = {key: value for key, value in seen().items() if key != "scaling"} | nothing
        assert explain.text(item, NOW) == "ns/a: nothing was decided yet"
        assert explain.to_json(item) == {"namespace": "ns", "name": "a"}
        assert list(explain.Watcher("a", as_json=True).news(view(item), NOW)) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3.0, "0 s"), (4.4, "4 s"), (90.0, "2 min"), (7200.0, "2 h"), (5 * 86400.0, "5 d")]
)
def test_ages_are_short(seconds: float, words: str) -> None:
    assert explain.age(seconds) == words


@pytest.mark.parametrize(
    ("name", "found"), [("a", "ns/a"), ("ns/a", "ns/a"), ("b", "default/b"), ("ns/b", "ns/b"), ("d", None)]
)
def test_functions_are_called_by_name(name: str, found: str | None) -> None:
    here = view(*(seen(namespace=space, name=name) for space, name in [("ns", "a"), ("ns", "b"), ("default", "b")]))
    if found:
        assert explain.called(explain.pick(here, name)) == found
    else:
        with pytest.raises(explain.NoSuchFunction, match="no function d: there are default/b, ns/a, ns/b"):
            explain.pick(here, name)


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        ([], "there is no function x: none exists"),
        (["p", "q"], "x is the name of several: choose p/x or q/x"),
    ],
)
def test_what_cannot_be_chosen_is_told(spaces: list[str], said: str) -> None:
    with pytest.raises(explain.NoSuchFunction, match=said):
        explain.pick(view(*(seen(namespace=space, name="x") for space in spaces)), "x")


def test_of_many_functions_few_are_listed() -> None:
    with pytest.raises(explain.NoSuchFunction, match=r"ns/f4, 2 more$"):
        explain.pick(view(*(seen(name=f"f{number}") for number in range(7))), "x")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_watch_tells_each_new_decision_once(as_json: bool) -> None:
    watcher = explain.Watcher("a", as_json=as_json)
    begun = list(watcher.news(view(seen()), NOW))
    assert len(begun) == (2 if as_json else 1)
    assert list(watcher.news(view(seen()), NOW)) == []
    assert list(watcher.news(view(), NOW)) == []  # the operator began anew and has not heard of it yet
    newer = [decision(NOW + 2.0, 2), decision(NOW + 1.0, 4)]
    changed = seen(scaling={**newer[0], "decisions": [*newer, NEWEST, OLDER]})
    told = list(watcher.news(view(changed), NOW))
    if as_json:
        assert [json.loads(line)["desired"] for line in told] == [4, 2]
    else:
        assert [line.split(" ", 1)[1] for line in told] == [
            "4 wanted, 1 answer (Mean): 4 replicas",
            "2 wanted, 1 answer (Mean): 2 replicas",
        ]


def test_a_watch_of_nothing_ends() -> None:
    with pytest.raises(explain.NoSuchFunction):
        list(explain.Watcher("x", as_json=False).news(view(seen()), NOW))


@contextlib.asynccontextmanager
async def forebay(state: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The verb as a person runs it."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "forebay_cli", *words),
        env={**environ, "FOREBAY_STATE": str(state)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_a_running_operator_explains_itself(system: System) -> None:
    await system.start(function("a", "file:///m/a", replicas=1), function("b", "file:///m/b"))
    await until(lambda: system.routes())
    async with forebay(system.state, "explain", "a") as process:
        said, wrong = await process.communicate()
        assert (process.returncode, wrong) == (0, b"")
    lines = said.decode().splitlines()
    assert lines[0] == "default/a: pinned to 1 replica"
    assert lines[1].startswith("1 wanted, 1 answer (Pinned), for ")
    async with forebay(system.state, "explain", "default/a", "-o", "json") as process:
        found = json.loads((await process.communicate())[0])
    assert (found["namespace"], found["name"], found["desired"], found["reason"]) == ("default", "a", 1, "Pinned")
    assert found["decisions"][0]["desired"] == 1
    async with forebay(system.state, "explain", "c") as process:
        said, wrong = await process.communicate()
        assert (process.returncode, said) == (2, b"")
        assert wrong == b"forebay: there is no function c: there are default/a, default/b\n"


async def test_a_watch_goes_on_with_the_next_operator(system: System) -> None:
    await system.start(function("a", "file:///m/a", replicas=1))
    await until(lambda: system.routes())
    async with forebay(system.state, "explain", "a", "--watch", "-o", "json") as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert json.loads(await process.stdout.readline())["desired"] == 1
            system.source.apply(function("a", "file:///m/a", generation=2, replicas=2))
            assert json.loads(await process.stdout.readline())["desired"] == 2
            await system.restart((function("a", "file:///m/a", generation=3, replicas=0),))
            assert json.loads(await process.stdout.readline())["desired"] == 0
