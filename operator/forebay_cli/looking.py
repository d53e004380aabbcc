"""The verbs that look at a running system, of this machine or of a cluster: get, explain, invoke, timeline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forebay_cli import coldstart, tables, view
from forebay_cli import explain as explaining
from forebay_cli.cluster import Cluster, cluster
from forebay_cli.options import FunctionName, KubeContext, KubeNamespace, Output, StateFolder, err, fail, out
from forebay_cli.state import NothingRuns, State

app = typer.Typer()

System = State | Cluster
"""Where operator and gateway are found."""


class Form(StrEnum):
    JSON = "json"


class Kind(StrEnum):
    FUNCTIONS = "functions"
    WORKERS = "workers"
    PIPELINES = "pipelines"


@app.command()
def get(
    kind: Annotated[Kind, typer.Argument(help="functions, workers or pipelines")],
    output: Annotated[Output | None, typer.Option("-o", "--output", help="wide or json")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on as things change.")] = False,
    state: StateFolder = None,
    kube_context: KubeContext = None,
    kube_namespace: KubeNamespace = None,
) -> None:
    """Show what `kubectl get` would show."""

    def text(seen: view.View) -> str:
        items = seen[kind.value]
        if output is Output.JSON:
            return json.dumps(items, indent=None if watch else 2)
        return tables.table(kind.value, items, wide=output is Output.WIDE)

    async def run(system: System) -> None:
        if not watch:
            typer.echo(text(await view.look(system.operator())))
            return
        last = None
        async for seen in view.follow(system.operator):
            if (shown := text(seen)) != last:
                typer.echo(shown)
                last = shown

    _look(run, state, kube_context, kube_namespace)


@app.command()
def explain(
    function: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with each new decision, one a line.")] = False,
    output: Annotated[Form | None, typer.Option("-o", "--output", help="json")] = None,
    state: StateFolder = None,
    kube_context: KubeContext = None,
    kube_namespace: KubeNamespace = None,
) -> None:
    """Say why a function has as many replicas as it has.

    First what holds now, then the numbers it was decided from (how old, and from whom), then the last twenty decisions
    that differed in replicas, reason or limit, with which functions gave devices up for it or got them from it.
    LIMIT is what kept a decision from going where its reason leads: minReplicas, maxReplicas, a rate of spec.scaling,
    or blind, when too little is known to scale down.
    """

    async def run(system: System) -> None:
        watcher = explaining.Watcher(_named(function, system), as_json=output is not None)
        if not watch:
            typer.echo(watcher.all(await view.look(system.operator()), time.time()))
            return
        async for seen in view.follow(system.operator):
            for told in watcher.news(seen, time.time()):
                typer.echo(told)

    _look(run, state, kube_context, kube_namespace)


@app.command()
def invoke(
    function: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME")],
    prompt: Annotated[str, typer.Argument(help="What to say.")],
    max_tokens: Annotated[int | None, typer.Option(min=1, help="End the answer after so many tokens.")] = None,
    state: StateFolder = None,
    kube_context: KubeContext = None,
    kube_namespace: KubeNamespace = None,
) -> None:
    """Ask a function; see its cold start while you wait."""
    from forebay_cli.answer import show
    from forebay_cli.invoke import InvokeFailed

    async def run(system: System) -> None:
        try:
            await show(system.gateway(), _named(function, system), prompt, out=out, err=err, max_tokens=max_tokens)
        except InvokeFailed as error:
            raise fail(error) from error

    _look(run, state, kube_context, kube_namespace)


@app.command()
def timeline(
    function: FunctionName = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="trace.json (Perfetto) or a .png")] = Path(
        "timeline.png"
    ),
    state: StateFolder = None,
    kube_context: KubeContext = None,
    kube_namespace: KubeNamespace = None,
) -> None:
    """Write the last cold start as a picture or as a trace that Perfetto opens."""

    async def run(system: System) -> None:
        seen = await view.look(system.operator())
        start = coldstart.pick(seen["coldStarts"], function and _named(function, system))
        try:
            coldstart.write(start, output)
        except OSError as error:
            raise fail(f"-o {output}: cannot be written ({error.strerror})") from error
        for name, seconds in coldstart.phases(start):
            out.print(f"{name:26} {'–' if seconds is None else f'{seconds:8.3f} s'}", highlight=False)
        out.print(f"wrote {output}", highlight=False)

    if output.suffix not in (".json", ".png", ".svg", ".pdf"):
        raise fail(f"-o {output}: must end with .json (a trace) or .png, .svg, .pdf (a picture)")
    _look(run, state, kube_context, kube_namespace)


@contextlib.contextmanager
def _system(state: Path | None, context: str | None, namespace: str | None) -> Iterator[System]:
    if context is None:
        yield State.find(state)
        return
    with cluster(context, namespace) as found:
        yield found


def _named(function: str, system: System) -> str:
    """In a cluster a bare name is of the context's namespace; on this machine it is nobody else's."""
    if isinstance(system, Cluster) and "/" not in function:
        return f"{system.home()}/{function}"
    return function


def _look(
    run: Callable[[System], Coroutine[None, None, None]],
    state: Path | None,
    context: str | None,
    namespace: str | None,
) -> None:
    try:
        with _system(state, context, namespace) as system:
            asyncio.run(run(system))
    except (NothingRuns, view.OperatorAway, coldstart.NoColdStart, explaining.NoSuchFunction) as error:
        raise fail(error) from error
    except ModuleNotFoundError as error:
        raise fail(f"pictures need {error.name}: install forebay[plot], or write a trace with -o trace.json") from error
