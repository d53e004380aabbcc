"""What a zygote and its workers are told: flags and ``FOREBAY_*`` variables, parsed once. Imports no torch."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from forebay_api import local
from forebay_api.quantities import parse_rate, parse_size

if TYPE_CHECKING:  # imports gRPC, which the tools do without
    from forebay_channel import Identity

DeviceKind = Literal["auto", "cpu", "cuda"]


LOOPBACK = "127.0.0.1"
UID_LETTERS = 12
LONGEST_DRAIN = 86400  # as long as a WorkerPool may give its pods


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
    name: str  # of the only worker; empty = name_prefix and a number
    name_prefix: str
    cpus: tuple[frozenset[int], ...]  # dealt out to the workers in turn; empty = as inherited
    node: str
    drain_seconds: float
    die_with_parent: int | None  # the parent's pid, 0 = whoever it is; None = outlive it
    listen: str  # the IP address by which gateways and other workers reach these
    sockets: Path  # folder; those on this machine that share it reach each other through it
    metrics_port: int | None  # on all interfaces; None = any free one on loopback
    pod_uid: str  # empty = not in a pod
    identity: Identity | None  # None = plain text

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.name else tuple(f"{self.name_prefix}{index}" for index in range(self.count))

    def socket(self, worker: str, purpose: Literal["engine", "hop"]) -> Path:
        """A pod's name may be too long for a socket's path; the beginning of its uid is as good."""
        return self.sockets / f"{self.pod_uid[:UID_LETTERS] or worker}.{purpose}.sock"


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
    flag("--name", "FOREBAY_NAME", "what to call the only worker", "", _name)
    flag("--name-prefix", "FOREBAY_NAME_PREFIX", "workers are called PREFIX0, PREFIX1, ...", "w", _prefix)
    flag("--cpus", "FOREBAY_CPUS", "cores, such as 0-3,6; lists for single workers divided by '/'", "", _cpus)
    flag("--listen", "FOREBAY_LISTEN", "this machine's IP address for the others", LOOPBACK, _ip)
    flag("--sockets", "FOREBAY_SOCKETS", "another folder for them, which workers of one node share", None, _folder)
    flag("--metrics-port", "FOREBAY_METRICS_PORT", "for Prometheus (default: a free one on loopback)", None, _port)
    flag("--pod-uid", "FOREBAY_POD_UID", "of the pod that this is", "")
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
    if given.count > 1:
        _refuse_single(parser, given)
    identity = _identity(parser)
    if identity is None and not ipaddress.ip_address(given.listen).is_loopback:
        parser.error(f"argument --listen: {given.listen} is not on loopback, and without FOREBAY_TLS all is plain text")
    config = WorkerConfig(
        count=given.count,
        operator=given.operator,
        state=given.state,
        device=given.device,
        device_memory=given.device_memory,
        link_rate=given.link_rate,
        shared_link=given.shared_link,
        name=given.name,
        name_prefix=given.name_prefix,
        cpus=given.cpus,
        node=given.node,
        drain_seconds=given.drain_seconds,
        die_with_parent=given.die_with_parent,
        listen=given.listen,
        sockets=given.sockets or given.state / "sockets",
        metrics_port=given.metrics_port,
        pod_uid=given.pod_uid,
        identity=identity,
    )
    longest = config.socket(config.names[-1], "engine")
    if len(os.fsencode(longest)) > local.LONGEST_SOCKET_PATH:
        named = f"argument --sockets: {given.sockets}" if given.sockets else f"argument --state: {given.state}"
        parser.error(f"{named} is too long: {longest} has more than {local.LONGEST_SOCKET_PATH} bytes")
    return config


def _refuse_single(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """What several workers cannot share."""
    for flag, value in (
        ("--name", given.name),
        ("--metrics-port", given.metrics_port),
        ("--pod-uid", given.pod_uid),
    ):
        if value:
            parser.error(f"argument {flag}: {value} is for one worker, and --count is {given.count}")


def _identity(parser: argparse.ArgumentParser) -> Identity | None:
    from forebay_channel import Identity, InvalidIdentity

    try:
        return Identity.from_env(os.environ)
    except InvalidIdentity as error:
        parser.error(str(error))


def _reader(read: Callable[[str], object]) -> Callable[[str], object]:
    """``read`` with its ValueError's own words kept, which argparse would replace by the function's name."""

    def parse(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= local.MOST_WORKERS:
        raise ValueError(f"{text!r} is not a number of workers: between 1 and {local.MOST_WORKERS}")
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
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", text):
        raise ValueError(f"{text!r} cannot begin a worker's name: at most 61 lower-case letters, digits, '-' and '.'")
    return text


def _name(text: str) -> str:
    if text and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", text):
        raise ValueError(
            f"{text!r} cannot name a worker: at most 63 lower-case letters, digits, '-' and '.', as a pod's name"
        )
    return text


def _ip(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address: such as 10.0.0.7") from None
    if found.is_unspecified:
        raise ValueError(f"{text} is no address that others could call: give one of this machine's")
    return str(found)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is not a port: between 1 and 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_DRAIN:
        raise ValueError(f"{text!r} is not a time: seconds between 0 and {LONGEST_DRAIN}")
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
