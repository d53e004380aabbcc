"""Options that several verbs share, and how every verb says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from forebay_api import local
from forebay_api.quantities import parse_rate, parse_size
from forebay_cli.workers import DeviceFlags

out = Console()
err = Console(stderr=True)


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


def number_of_workers(given: int) -> int:
    if not 1 <= given <= local.MOST_WORKERS:
        raise typer.BadParameter(f"{given} is not a number of workers: between 1 and {local.MOST_WORKERS}")
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
        "--workers", help="How many workers, one device each.", callback=number_of_workers, envvar="FOREBAY_WORKERS"
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
KubeContext = Annotated[
    str | None,
    typer.Option(
        "--kube-context",
        help="Look at the cluster of this kubectl context instead of this machine; a NAME is then of its namespace.",
        envvar="FOREBAY_KUBE_CONTEXT",
    ),
]
KubeNamespace = Annotated[
    str | None,
    typer.Option(
        "--kube-namespace",
        help="Where Forebay is installed there; found by itself when left out.",
        envvar="FOREBAY_KUBE_NAMESPACE",
    ),
]
FunctionName = Annotated[str | None, typer.Argument(help="NAME or NAMESPACE/NAME; the last one when left out.")]


def fail(message: object) -> typer.Exit:
    warn(message)
    return typer.Exit(2)


def warn(message: object) -> None:
    err.print(f"forebay: {message}", style="red", highlight=False, markup=False, soft_wrap=True)


def device_flags(device: str, memory: str | None, rate: str | None, shared: str | None) -> DeviceFlags:
    if device not in ("auto", "cpu", "cuda"):
        raise fail(f"--device {device}: must be auto, cpu or cuda")
    return DeviceFlags(device, memory, rate, shared)
