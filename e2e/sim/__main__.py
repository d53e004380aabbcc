"""The simulator's commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.machine import heading, table

from forebay_api.function import Scaling
from sim import recorded, traces
from sim.hardware import Hardware
from sim.models import SHAPES as SIZES
from sim.report import FIELDS, POLICIES, TITLES, Case, compare

EXAMPLES = """examples:
  python -m sim run --trace azure-code                          four functions of bursty code completion, one hour
  python -m sim run --trace all --sweep grace=120 target=8      every trace; ours with other settings too
  python -m sim run --trace mooncake --policy forebay knative --gpus 32 --link 5 --bucket 0
  python -m sim run --file BurstGPT_1.csv --format burstgpt     a real trace that you have
  python -m sim day                                             10,000 devices, 2,000 functions, one day
"""


def main(words: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(words)
    try:
        return COMMANDS[options.command](options)
    except (ValueError, recorded.BadTrace) as error:
        print(f"sim: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """policies side by side on one trace, or on all"""
    _check(options)
    names = traces.NAMES if options.trace == "all" else (options.trace,)
    cases = [_recorded(options)] if options.file else [_case(options, name) for name in names]
    for case in cases:
        _show(case, options)
    return 0


def day(options: argparse.Namespace) -> int:
    """many functions, most of them called rarely, on a large fleet for a day"""
    _check(options)
    loads = traces.many(options.functions, options.seed, most_a_day=options.most)
    _show(
        Case(f"{options.functions} functions", _hardware(options), loads, options.hours * 3600, _scaling(options)),
        options,
    )
    return 0


COMMANDS = {"run": run, "day": day}


def _show(case: Case, options: argparse.Namespace) -> None:
    policies = POLICIES if "all" in options.policy else tuple(options.policy)
    found = compare(case, policies, options.sweep, lambda words: print(f"… {words}", file=sys.stderr, flush=True))
    fleet, oracle = case.hardware, found.oracle
    print(heading(f"{case.name}: {oracle.asked} requests in {case.horizon / 3600:g} h, {fleet.gpus} devices"))
    print(table(TITLES, found.rows()))
    print(
        f"\noracle: {oracle.device_seconds / 3600:.2f} device-hours, first token p50 {oracle.quantile(0.5):.3f} s, "
        f"p99 {oracle.quantile(0.99):.3f} s (replicas exist exactly while requests do, without a cold start)"
    )
    for sentence in found.verdicts():
        print(f"- {sentence}")
    events = sum(outcome.events for outcome in (oracle, *found.outcomes))
    print(
        f"\n{found.seconds:.0f} s of processor time for {len(found.outcomes) + 1} runs, {events} events\n", flush=True
    )


def _case(options: argparse.Namespace, name: str) -> Case:
    if name == traces.FUNCTIONS:
        loads = traces.many(options.functions * 25, options.seed)
    else:
        size = {"size": options.model}
        loads = traces.services(name, options.functions, options.seed, scale=options.scale, **size)
    return Case(name, _hardware(options), loads, options.hours * 3600, _scaling(options))


def _recorded(options: argparse.Namespace) -> Case:
    loads = recorded.read(Path(options.file), options.format, size=options.model)
    return Case(Path(options.file).name, _hardware(options), loads, options.hours * 3600, _scaling(options))


def _hardware(options: argparse.Namespace) -> Hardware:
    return Hardware(gpus=options.gpus, per_node=options.per_node, link=options.link * 1e9, bucket=options.bucket * 1e9)


def _scaling(options: argparse.Namespace) -> Scaling:
    return Scaling(
        max_replicas=options.max_replicas, target=options.target, scale_to_zero_grace_period_seconds=options.grace
    )


def _check(options: argparse.Namespace) -> None:
    """Raises ValueError with field, value and what would be right."""
    for name in ("gpus", "per_node", "functions", "max_replicas", "hours", "link", "target"):
        value = getattr(options, name)
        if value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}: more than 0 would be right")
    for name in ("bucket", "grace"):
        if getattr(options, name) < 0:
            raise ValueError(f"--{name} is {getattr(options, name):g}: 0 or more would be right")
    if options.command == "run" and options.scale <= 0:
        raise ValueError(f"--scale is {options.scale:g}: more than 0 would be right (1: the published rate)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim",
        description=f"{sys.modules['sim'].__doc__}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    single = commands.add_parser("run", help=run.__doc__, description=run.__doc__)
    single.add_argument(
        "--trace", choices=(*traces.NAMES, "all"), default="azure-code", help="shape of the load (default azure-code)"
    )
    single.add_argument("--file", help="a recorded trace instead, in the format that --format names")
    single.add_argument("--format", choices=recorded.FORMATS, default="azure-llm", help="of --file (default azure-llm)")
    single.add_argument("--scale", type=float, default=1.0, help="times as many requests as published (default 1)")
    _shared(single, gpus=64, functions=4, hours=1.0)
    single.add_argument("--model", choices=tuple(SIZES), default="8b", help="size of the model (default 8b)")
    big = commands.add_parser("day", help=day.__doc__, description=day.__doc__)
    _shared(big, gpus=10_000, functions=2000, hours=24.0)
    big.add_argument("--most", type=float, default=4000.0, help="requests a day of one function at most (default 4000)")
    return parser


def _shared(parser: argparse.ArgumentParser, *, gpus: int, functions: int, hours: float) -> None:
    add = parser.add_argument
    add("--policy", nargs="+", choices=("all", *POLICIES), default=["all"], help="which to compare (default all)")
    swept = f"ours again with other settings, such as grace=120 or target=8,grace=120; known: {', '.join(FIELDS)}"
    add("--sweep", nargs="*", default=[], metavar="SETTINGS", help=swept)
    add("--gpus", type=int, default=gpus, help=f"devices in all (default {gpus})")
    add("--per-node", type=int, default=8, help="devices of a node (default 8)")
    add("--link", type=float, default=2.0, help="GB/s by which one device gets weights (default 2)")
    add("--bucket", type=float, default=8.0, help="GB/s that the links of a node share; 0: nothing shared (default 8)")
    add("--functions", type=int, default=functions, help=f"how many (default {functions}; azure-functions: × 25)")
    add("--hours", type=float, default=hours, help=f"of requests (default {hours:g})")
    add("--seed", type=int, default=1, help="another one, another run of the same shape (default 1)")
    add("--target", type=float, default=16.0, help="requests that one replica should have (default 16)")
    add("--max-replicas", type=int, default=64, help="of one function (default 64)")
    add("--grace", type=int, default=30, help="seconds that ours and Knative's keep the last replica (default 30)")


if __name__ == "__main__":
    sys.exit(main())
