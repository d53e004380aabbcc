"""``python -m forebay_worker``: the zygote and its workers, and tools that need the worker's code.

The command line runs the tools as processes, since it imports neither torch nor this package.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from forebay_process.early import end_at_sigterm
from forebay_worker.config import DeviceKind, OneLineParser, WorkerConfig, add_serve_flags, read_serve_flags

if TYPE_CHECKING:
    from forebay_worker.artifact.access import Access

# Read by libraries when they are first imported.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # several workers share cores: a thread that spins takes the others' time
    "GOMP_SPINCOUNT": "100000",  # but for 3 ms: each of a step's hundreds of operations would wait for one that slept
    "TOKENIZERS_PARALLELISM": "false",  # its thread pool does not survive a fork
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA must not initialise it before the fork
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

ALONE = {"GOMP_SPINCOUNT": "1000000"}
"""For the only worker of `forebay up`, which has no neighbours: as fast as with libgomp's own setting. Pods do not know
who else computes on their node, and stages that spin so long keep the next one from a core: a third fewer tokens."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser(os.environ)
    given = parser.parse_args(arguments)
    alone = given.tool == "serve" and given.count == 1 and given.die_with_parent is not None
    wanted = ENVIRONMENT | ALONE if alone else ENVIRONMENT
    os.environ.update({name: value for name, value in wanted.items() if name not in os.environ})
    match given.tool:
        case "serve":
            return _serve(read_serve_flags(given.parser, given))
        case "inspect":
            return _inspect(given.uri, given.dtype, _access(given), given.json)
        case "probe":
            return _probe(given.uri, given.dtype, _access(given), given.device, given.count)
        case _:
            return _model(given)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = OneLineParser(prog="forebay_worker", description="Forebay's worker and its tools.")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")

    serve = tools.add_parser("serve", help="a zygote and its workers, until SIGTERM")
    add_serve_flags(serve, environ)
    serve.set_defaults(parser=serve)

    inspect = tools.add_parser("inspect", help="what a checkpoint holds, as JSON [FOREBAY_MODEL_CREDENTIALS]")
    inspect.add_argument(
        "uri", help="file:///folder, hf://org/name[:revision], s3://bucket/prefix or https://host/folder/"
    )
    inspect.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    _add_source_flags(inspect)
    inspect.add_argument("--json", action="store_true", help="errors as JSON on stdout too")

    probe = tools.add_parser("probe", help="measured compute of a checkpoint's layers, and a worker's memory, as JSON")
    probe.add_argument(
        "uri", help="file:///folder, hf://org/name[:revision], s3://bucket/prefix or https://host/folder/"
    )
    probe.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    _add_source_flags(probe)
    probe.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    probe.add_argument("--count", default=1, type=int, help="workers that share the memory")

    kinds = tools.add_parser("model", help="make a checkpoint").add_subparsers(
        dest="kind", required=True, metavar="KIND"
    )
    smollm2 = kinds.add_parser("smollm2", help="SmolLM2-135M-Instruct in float32")
    smollm2.add_argument("folder", type=Path)
    random = kinds.add_parser("random", help="random weights of a true shape, with a working tokenizer")
    random.add_argument("folder", type=Path)
    random.add_argument("--like", required=True, help="smollm2, llama-1.1b, qwen2-0.5b, ...")
    random.add_argument("--tiny", action="store_true", help="a few narrow layers")
    random.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    random.add_argument("--seed", type=int, required=True)
    return parser


def _add_source_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", default="", help="of hf://, a commit, tag or branch")
    parser.add_argument("--digest", default="", help="sha256:… that the manifest of files must have")


def _serve(config: WorkerConfig) -> int:
    end_at_sigterm()
    from forebay_process.logs import log_to
    from forebay_worker import nvml, sockets, zygote

    if config.die_with_parent is not None:
        zygote.end_with_parent(signal.SIGTERM, config.die_with_parent)
    log_to()
    if config.device == "cuda" and not nvml.inventory():
        return _refuse(nvml.NO_GPU)
    try:
        config.sockets.mkdir(parents=True, exist_ok=True)
        sockets.clear(config.sockets)
    except OSError as error:
        return _refuse(f"--state {config.state}: {config.sockets} cannot be used ({error.strerror})")
    zygote.warm_up()
    from forebay_worker.life import live
    from forebay_worker.shelf import Shelf

    zygote.Zygote(config, Shelf(), live).run()
    return 0


def _access(given: argparse.Namespace) -> Access:
    """Credentials come by the environment alone: command lines are seen by everybody on the machine."""
    from forebay_worker.artifact.access import Access, Secret

    return Access(given.revision, given.digest, Secret(os.environ.get("FOREBAY_MODEL_CREDENTIALS", "")))


def _inspect(uri: str, dtype: str, access: Access, errors_as_json: bool) -> int:
    from forebay_worker.load.checkpoint import CheckpointError, open_checkpoint

    try:
        model = open_checkpoint(uri, dtype, access).model
    except CheckpointError as error:
        if errors_as_json:
            _print({"reason": error.reason, "message": error.message})
        return _refuse(f"{error.reason}: {error.message}")
    _print(asdict(model))
    return 0


def _probe(uri: str, dtype: str, access: Access, device: DeviceKind, count: int) -> int:
    from forebay_worker.load.checkpoint import CheckpointError, open_checkpoint

    try:
        checkpoint = open_checkpoint(uri, dtype, access)
    except CheckpointError as error:
        return _refuse(f"{error.reason}: {error.message}")
    import torch

    from forebay_worker.cores import Cores
    from forebay_worker.device import Device, DeviceError
    from forebay_worker.model.skeleton import Skeleton
    from forebay_worker.probe import measure
    from forebay_worker.team import Team

    try:
        opened = Device.open(device, None, 0, count)
    except DeviceError as error:
        return _refuse(str(error))
    skeleton = Skeleton.build(checkpoint)
    skeleton.to(opened.torch_device)
    with torch.inference_mode():
        probed = measure(checkpoint, skeleton, opened, Team(opened.threads, Cores(1).share(0)))
    _print({**asdict(probed), "memory": opened.memory.budget})
    return 0


def _model(given: argparse.Namespace) -> int:
    from forebay_worker.model.make import MakeError, write_random, write_smollm2

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # what is half made is removed on the way out
    try:
        if given.kind == "smollm2":
            write_smollm2(given.folder, _Bar(sys.stderr).show)
        else:
            write_random(given.like, given.folder, given.seed, given.tiny, given.dtype)
    except MakeError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{given.folder}: cannot be written ({error.strerror})")
    return 0


class _Bar:
    """Progress of one job: a line that is drawn over on a terminal, a line per change elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def show(self, doing: str, fraction: float) -> None:
        live = self._out.isatty()
        line = f"{doing} {fraction:4.0%}" if live else doing
        if line != self._last:
            self._out.write(f"\r\x1b[K{line}" + ("\n" if fraction >= 1 else "") if live else f"{line}\n")
            self._out.flush()
        self._last = line


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _refuse(line: str) -> int:
    sys.stderr.write(f"forebay_worker: {line}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
