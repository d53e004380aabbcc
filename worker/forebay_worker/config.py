"""What a zygote and its workers are told: flags and ``FOREBAY_*`` variables, parsed once. Imports no torch."""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from forebay_api import local
from forebay_api.quantities import parse_rate, parse_size

DeviceKind = Literal["auto", "cpu", "cuda"]


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line; ``--help`` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of one zygote. Sizes in bytes, rates in bytes per second; ``None`` = not limited."""

    count: int
    operator: tuple[str, ...]  # gRPC targets, tried in turn
    state: Path
    device: DeviceKind
    device_memory: int | None  # budget of each worker; None = what the device has
    link_rate: float | None  # emulated, one link per worker
    shared_link: float | None  # emulated, one bucket for all of them
    name_prefix: str
    cpus: tuple[frozenset[int], ...]  # dealt out to the workers in turn; empty = as inherited
    node: str
    drain_seconds: float
    die_with_parent: int | None  # the parent's pid, 0 = whoever it is; None = outlive it

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.name_prefix}{index}" for index in range(self.count))

    def socket(self, worker: str, purpose: Literal["engine", "hop"]) -> Path:
        return self.state / "sockets" / f"{worker}.{purpose}.sock"


def add_serve_flags(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Declare the flags of ``serve``. A variable named in the help stands in for its flag."""

    def flag(name: str, variable: str, text: str, default: str | None, read: Callable[[str], object] = str) -> None:
        parser.add_argument(
            name, type=_reader(read), default=environ.get(variable, default), help=f"{text} [{variable}]", metavar="…"
        )

    flag("--count", "FOREBAY_COUNT", "workers to fork", "1", _count)
    flag("--operator", "FOREBAY_OPERATOR", "gRPC targets of the operator, comma-separated", None, _targets)
    flag("--state", "FOREBAY_STATE", "folder for sockets", local.default_state(environ, os.getuid()), _folder)
    flag("--device", "FOREBAY_DEVICE", "auto, cpu or cuda", "auto", _device)
    flag("--device-memory", "FOREBAY_DEVICE_MEMORY", "budget of each worker's device, such as 2GB", None, parse_size)
    flag("--link-rate", "FOREBAY_LINK_RATE", "emulated link of each worker, such as 50MB/s", None, parse_rate)
    flag("--shared-link", "FOREBAY_SHARED_LINK", "emulated link that all workers share", None, parse_rate)
    flag("--name-prefix", "FOREBAY_NAME_PREFIX", "workers are called PREFIX0, PREFIX1, ...", "w", _prefix)
    flag("--cpus", "FOREBAY_CPUS", "cores, such as 0-3,6; lists for single workers divided by '/'", "", _cpus)
    flag("--node", "FOREBAY_NODE", "what to call this machine", socket.gethostname())
    flag("--drain-seconds", "FOREBAY_DRAIN_SECONDS", "how long requests may go on after SIGTERM", "5", _seconds)
    parser.add_argument(
        "--die-with-parent",
        nargs="?",
        type=int,
        const=0,
        metavar="PID",
        help="stop when the parent process ends; with its PID also when it has ended already",
    )


def read_serve_flags(parser: argparse.ArgumentParser, given: argparse.Namespace) -> WorkerConfig:
    """The configuration, or one line on stderr and exit 2."""
    if given.operator is None:
        parser.error("argument --operator: required: the operator's gRPC target, such as unix:/path or host:port")
    config = WorkerConfig(
        count=given.count,
        operator=given.operator,
        state=given.state,
        device=given.device,
        device_memory=given.device_memory,
        link_rate=given.link_rate,
        shared_link=given.shared_link,
        name_prefix=given.name_prefix,
        cpus=given.cpus,
        node=given.node,
        drain_seconds=given.drain_seconds,
        die_with_parent=given.die_with_parent,
    )
    longest = config.socket(config.names[-1], "engine")
    if len(os.fsencode(longest)) > local.LONGEST_SOCKET_PATH:
        parser.error(
            f"argument --state: {config.state} is too long: {longest} has more than {local.LONGEST_SOCKET_PATH} bytes"
        )
    return config


def _reader(read: Callable[[str], object]) -> Callable[[str], object]:
    """``read`` with its ValueError's own words kept, which argparse would replace by the function's name."""

    def parse(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ValueError(f"{text!r} is not a number of workers: between 1 and 64")
    return int(text)


def _targets(text: str) -> tuple[str, ...]:
    targets = tuple(target.strip() for target in text.split(",") if target.strip())
    if not targets:
        raise ValueError(f"{text!r} names no operator: unix:/path or host:port, several divided by commas")
    return targets


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _device(text: str) -> str:
    if text not in ("auto", "cpu", "cuda"):
        raise ValueError(f"{text!r} is not a device: auto, cpu or cuda")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,50}", text):
        raise ValueError(f"{text!r} cannot begin a worker's name: lower-case letters, digits, '-' and '.'")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise ValueError(f"{text!r} is not a time: seconds between 0 and 3600")
    return seconds


def _cpus(text: str) -> tuple[frozenset[int], ...]:
    lists = tuple(_cores(part) for part in text.split("/")) if text else ()
    if unknown := frozenset().union(*lists) - os.sched_getaffinity(0):
        raise ValueError(f"core {min(unknown)} is not among those that this process may use")
    return lists


def _cores(text: str) -> frozenset[int]:
    cores: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{text!r} is not a list of cores: such as 0-3,6")
        cores.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cores)
