"""The control plane is killed and comes back: workers keep what they hold, requests in flight go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from forebay_cli.state import NothingRuns, State
from local.reference import Reference
from local.system import PATIENCE, System, chat, free_port, function, listens, pieces, wait_for, write

PROMPT = "A short list of rivers:"
TOKENS = 64


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    return write(tmp_path_factory.mktemp("restart") / "functions.yaml", function("smollm2", smollm2))


@pytest.fixture(scope="module")
def system(file: Path) -> Iterator[System]:
    """Operator, gateway and two workers, each started alone. A test finds them as the one before left them."""
    system = System(State(file.parent / "state"), free_port())
    start_operator(system, file)
    system.start("gateway", "gateway", "--port", str(system.port))
    system.start("workers", "worker", "--count", "2", "--device", "cpu", "--link-rate", "300MB/s")
    try:
        wait_for(lambda: answers(system), "the gateway listens")
        yield system
    finally:
        left = system.children()
        for name in ("gateway", "workers", "operator"):
            if name in system.processes:
                system.stop(name)
        _, alive = psutil.wait_procs(left, timeout=PATIENCE)
        for process in alive:
            process.kill()
        assert not alive


def answers(system: System) -> bool:
    """A live gateway has left its address."""
    try:
        return bool(system.state.gateway())
    except NothingRuns:
        return False


def start_operator(system: System, file: Path) -> None:
    url = f"http://127.0.0.1:{system.port}"
    system.start("operator", "operator", "-f", str(file), "--gateway-url", url)


async def test_the_operator_is_killed_while_units_are_on_their_way(system: System, file: Path, real: Reference) -> None:
    seen = await system.ready(2)
    pids = {worker["name"]: worker["pid"] for worker in seen["workers"]}
    (model,) = seen["models"]
    async with system.client() as client:
        asking = asyncio.create_task(chat(client, "smollm2", "Say yes.", max_tokens=4))
        await system.until(lambda seen: any(worker["loading"] for worker in seen["workers"]), "units on their way")
        system.stop("operator", signal.SIGKILL)
        start_operator(system, file)
        real.check(await asking, "Say yes.", 4, chat=True)
    seen = await system.until(lambda seen: seen["functions"] and seen["functions"][0]["state"] == "Serving", "one")
    assert {worker["name"]: worker["pid"] for worker in seen["workers"]} == pids
    assert all(worker["bytesRead"] <= model["totalBytes"] for worker in seen["workers"]), "nothing is read twice"


async def test_operator_and_gateway_are_killed(system: System, file: Path, real: Reference) -> None:
    await system.ready(2)
    async with system.client() as client:
        # In flight while the operator dies.
        got: list[str] = []
        async for piece in pieces(client, "smollm2", PROMPT, max_tokens=TOKENS):
            got.append(piece)
            if len(got) == 4:
                system.stop("operator", signal.SIGKILL)
        real.check("".join(got), PROMPT, TOKENS, chat=False)

        # The gateway serves on without an operator.
        real.check(await chat(client, "smollm2", "Say yes.", max_tokens=4), "Say yes.", 4, chat=True)

    start_operator(system, file)
    seen = await system.ready(2)
    seen = await system.until(lambda seen: seen["functions"][0]["ready"] >= 1, "the new operator adopts what is held")
    pids = {worker["name"]: worker["pid"] for worker in seen["workers"]}
    read = {worker["name"]: worker["bytesRead"] for worker in seen["workers"] if worker["holds"]}
    assert read, "workers keep what they hold"

    async with system.client() as client:
        real.check(await chat(client, "smollm2", "Say no.", max_tokens=4), "Say no.", 4, chat=True)
    seen = await system.look()
    assert {worker["name"]: worker["pid"] for worker in seen["workers"]} == pids, "no worker was restarted"
    assert seen["coldStarts"] == [], "the next request is warm"

    await killed_beside_another(system, real)
    system.start("gateway", "gateway", "--port", str(system.port))
    wait_for(lambda: answers(system), "the gateway is back")
    async with system.client() as client:
        real.check(await chat(client, "smollm2", "Say maybe.", max_tokens=4), "Say maybe.", 4, chat=True)
    assert (await system.look())["coldStarts"] == []


async def killed_beside_another(system: System, real: Reference) -> None:
    """A gateway dies while another one answers."""
    port, got = free_port(), list[str]()
    system.start("other", "gateway", "--port", str(port))
    wait_for(lambda: listens(port), "the other gateway listens")
    async with system.client(base_url=f"http://127.0.0.1:{port}/v1") as client:
        async for piece in pieces(client, "smollm2", PROMPT, max_tokens=TOKENS):
            got.append(piece)
            if len(got) == 4:
                system.stop("gateway", signal.SIGKILL)
    real.check("".join(got), PROMPT, TOKENS, chat=False)
    system.stop("other")


async def answering(system: System) -> str:
    """The backbone that the one function is served from."""
    (seen,) = (await system.look())["functions"]
    return str(seen["previous"] or seen["backbone"])


async def test_requests_are_answered_all_through_a_change_of_the_model(
    system: System, file: Path, tiny: Callable[[str], Path]
) -> None:
    """By the old one, then by the new one."""
    (model,) = (await system.ready(2))["models"]
    write(file, function("smollm2", tiny("llama")))
    async with system.client() as client:
        while (new := await answering(system)) in ("", model["backbone"]):
            assert await chat(client, "smollm2", "Say no.", max_tokens=4)
    seen = await system.until(
        lambda seen: all(set(worker["holds"]) <= {new} for worker in seen["workers"]),
        "the old one is gone",
    )
    assert new not in [start["backbone"] for start in seen["coldStarts"]], "nobody waited for it"
