"""Every query of the dashboard and every rule, asked of a real Prometheus that scraped real processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import openai
import psutil

from dashboards.board import DASHBOARDS, KUBERNETES, Query, load, queries, variables
from dashboards.prometheus import PATIENCE, WITH_PROMETHEUS, Prometheus, promtool, running, wait_for
from forebay_cli.state import State
from local import system as local
from local.system import System, pieces

VARIABLES = {"__rate_interval": "10s", "release": ".*", "namespace": "default", "function": "default/(served|off)"}
"""As Grafana fills them in for a scrape interval of a second and two functions that were chosen."""

pytestmark = WITH_PROMETHEUS

Tiny = Callable[[str], Path]


LOCAL = [query for path in DASHBOARDS for query in queries(load(path)) if query.row != KUBERNETES]
"""What one machine measures; e2e/apiserver asks the others."""


@contextlib.asynccontextmanager
async def asked(system: System) -> AsyncIterator[None]:
    """Somebody asks all the time: for answers, and for what is refused."""

    async def ask(client: openai.AsyncOpenAI, model: str) -> None:
        while True:
            with contextlib.suppress(openai.APIStatusError):
                async for _ in pieces(client, model, "Once", max_tokens=8):
                    pass
            await asyncio.sleep(0.2)

    async with system.client() as client:
        asking = [asyncio.create_task(ask(client, model)) for model in ("served", "off", "absent")]
        try:
            yield
        finally:
            for task in asking:
                task.cancel()
            ended = await asyncio.gather(*asking, return_exceptions=True)
            assert [repr(how) for how in ended if not isinstance(how, asyncio.CancelledError)] == []


async def until_measured(prometheus: Prometheus, exprs: Sequence[str]) -> set[str]:
    """Those that have had no sample when patience ends."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while (empty := await asyncio.to_thread(prometheus.empty, exprs)) and loop.time() < end:
        exprs = sorted(empty)
        await asyncio.sleep(1.0)
    return empty


@contextlib.contextmanager
def processes(folder: Path, file: Path, prometheus: str) -> Iterator[tuple[System, str]]:
    """Operator, gateway and three workers, each started alone; and where the operator is scraped."""
    system = System(State(folder), local.free_port())
    metrics = local.free_port()
    words = ("-f", str(file), "--gateway-url", system.url, "--metrics-port", str(metrics))
    settings = {"FOREBAY_PROMETHEUS_URL": prometheus, "FOREBAY_PROMETHEUS_INTERVAL": "1"}
    system.start("operator", "operator", *words, **settings)
    system.start("gateway", "gateway", "--port", str(system.port))
    system.start("workers", "worker", "--count", "3", "--device", "cpu", "--link-rate", "1MB/s")
    try:
        yield system, f"127.0.0.1:{metrics}"
    finally:
        left = system.children()
        for name in ("gateway", "workers", "operator"):
            system.stop(name)
        _, alive = psutil.wait_procs(left, timeout=10)
        for process in alive:
            process.kill()
        assert not alive


async def test_nothing_is_empty(tmp_path: Path, tiny: Tiny) -> None:
    model = tiny("llama")
    served, off = local.function("served", model), local.function("off", model, replicas=0)
    file = local.write(tmp_path / "functions.yaml", served, off)
    port = local.free_port()
    with processes(tmp_path / "state", file, f"http://127.0.0.1:{port}") as (system, operator):
        seen = await system.ready(3, functions=2)
        workers = [urlsplit(each["metricsUrl"]).netloc for each in seen["workers"]]
        jobs = {"operator": [operator], "gateway": [f"127.0.0.1:{system.port}"], "worker": workers}
        with running(tmp_path / "prometheus", port, jobs) as prometheus:
            # Scraped before anything happens: what rises later is seen to rise.
            await asyncio.to_thread(wait_for, prometheus.scraped, "all targets are scraped")
            async with asked(system):
                await check_panels(prometheus)
                await check_rules(prometheus)
                await asyncio.to_thread(check_variables, prometheus)
            for target in itertools.chain.from_iterable(jobs.values()):
                await asyncio.to_thread(check_page, target)


async def check_panels(prometheus: Prometheus) -> None:
    asked = {query.ask(VARIABLES): query for query in LOCAL}
    empty = await until_measured(prometheus, list(asked))
    assert not empty, "panels without data:\n" + "\n".join(f"{asked[expr].panel}: {expr}" for expr in sorted(empty))


async def check_rules(prometheus: Prometheus) -> None:
    rules = await asyncio.to_thread(prometheus.rules)
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert await until_measured(prometheus, recorded) == set()
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == [], "nothing is wrong"


def check_variables(prometheus: Prometheus) -> None:
    """What a person can choose from."""
    found: dict[str, set[str]] = {}
    for name, variable in variables(load(DASHBOARDS[0])).items():
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked
        selector = Query("", "", asked[1]).ask(VARIABLES)
        values = prometheus.get(f"label/{asked[2]}/values", **{"match[]": selector})
        regex = re.compile(variable["regex"].strip("/") or "(.*)")
        found[name] = {match[1] for value in values if (match := regex.fullmatch(value))}
    assert found == {"release": set(), "namespace": {"default"}, "function": {"default/served", "default/off"}}


def check_page(target: str) -> None:
    """What promtool has to say of a page, but that vLLM's names have colons."""
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=PATIENCE) as answer:
        said = promtool("check", "metrics", given=answer.read().decode())
    complaints = [line for line in (said.stdout + said.stderr).splitlines() if not line.startswith("vllm:")]
    assert complaints == [], target
