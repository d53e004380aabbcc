"""The test bed's commands."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from testbed import gpus, images, needs, programs, trees
from testbed.cluster import LOGS, STATE, Cluster, Shape
from testbed.shell import Failed

GIVEN = "FOREBAY_E2E_KUBECONFIG"
"""A kubeconfig of a cluster to use instead of one of our own."""
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    options = _parser().parse_args()
    options.state = options.state.resolve()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    try:
        sys.exit(COMMANDS[options.command](options))
    except Failed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def get(options: argparse.Namespace) -> int:
    """install, build and unpack everything (cached)"""
    print(f"▸ programs: {programs.provide()}")
    options.state.parent.mkdir(parents=True, exist_ok=True)
    return 0


def check(options: argparse.Namespace) -> int:
    """say what the machine lacks"""
    built = programs.programs().exists()
    needs.check(build=not built)
    print("nothing is missing" if built else "nothing is missing, but the programs are not built yet")
    return 0 if built or not options.built else 1


def up(options: argparse.Namespace) -> int:
    """start a cluster and leave it"""
    cluster = Cluster(options.state, Shape(options.nodes, options.gpus))
    try:
        cluster.up()
    except BaseException:
        if options.state.exists():
            cluster.keep_logs(options.logs) if (options.state / "logs").exists() else None
            cluster.down()
        raise
    print(f"▸ its addresses answer inside: {cluster.enter} kubectl get nodes", flush=True)
    return 0


def down(options: argparse.Namespace) -> int:
    """stop the cluster"""
    Cluster.at(options.state).down()
    return 0


def run(options: argparse.Namespace) -> int:
    """start a cluster, run a command in it, and stop it whatever happens"""
    if given := os.environ.get(GIVEN):
        ours = {name: value for name, value in os.environ.items() if name != "FOREBAY_TESTBED"}  # whose levers we have
        path = f"{os.environ['PATH']}:{programs.programs()}"
        needs.commands("kubectl", "helm", path=path)
        environment = {
            **ours,
            "KUBECONFIG": str(Path(given).resolve()),
            "PATH": path,
            "PYTHONPATH": str(trees.ROOT / "e2e"),
        }
        return subprocess.run(options.words, env=environment, check=False).returncode
    up(options)
    cluster, code = Cluster.at(options.state), 1
    try:
        code = _wait(subprocess.Popen(cluster.inside(options.words), env=cluster.environment()))
    finally:
        for number in ENDS:  # half a cluster would be left by somebody who is in a hurry
            signal.signal(number, signal.SIG_IGN)
        if code:
            cluster.keep_logs(options.logs)
        cluster.down()
    return code


def execute(options: argparse.Namespace) -> int:
    """run a command where the cluster's addresses answer"""
    cluster = Cluster.at(options.state)
    words = cluster.inside(options.words, options.node)
    os.execvpe(words[0], words, dict(cluster.environment()))


def stop(options: argparse.Namespace) -> int:
    """stop one daemon (kube-apiserver, node1/kubelet, ...)"""
    Cluster.at(options.state).daemons.stop(options.name, signal.SIGKILL if options.kill else signal.SIGTERM)
    return 0


def start(options: argparse.Namespace) -> int:
    """start it again as it was"""
    Cluster.at(options.state).daemons.start_again(options.name)
    return 0


def cable(options: argparse.Namespace) -> int:
    """pull a node's cable, or put it back"""
    Cluster.at(options.state).node(options.name).plug(connected=options.way == "in")
    return 0


def gpu(options: argparse.Namespace) -> int:
    """make a fake GPU ill or well"""
    node = Cluster.at(options.state).node(options.name)
    print(f"{gpus.set_health(node, options.device, healthy=options.health == 'well')} is {options.health}")
    return 0


def status(options: argparse.Namespace) -> int:
    """list the daemons"""
    daemons = Cluster.at(options.state).daemons
    for name in daemons.names():
        print(f"{name:32} {daemons.pid(name) or 'stopped'}")
    return 0


def image(options: argparse.Namespace) -> int:
    """make Forebay's image anew and import it on every node"""
    cluster = Cluster.at(options.state)
    for archive in images.provide(options.state):
        for node in cluster.nodes:
            if said := node.ctr("images", "import", archive):
                raise Failed(f"{node.name}: {said}")
    return 0


COMMANDS = {
    "get": get, "check": check, "up": up, "down": down, "run": run, "exec": execute, "stop": stop, "start": start,
    "cable": cable, "gpu": gpu, "status": status, "image": image,
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    state = os.environ.get("FOREBAY_TESTBED", STATE)
    parser.add_argument("--state", type=Path, default=Path(state), help=f"the cluster's folder ({STATE})")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=function.__doc__) for name, function in COMMANDS.items()}
    parsers["check"].add_argument("--built", action="store_true", help="fail also while the programs are not built")
    for name in ("up", "run"):
        parsers[name].add_argument("--nodes", type=int, default=2)
        parsers[name].add_argument("--gpus", type=int, default=4, help="fake GPUs of each node")
        parsers[name].add_argument("--logs", type=Path, default=LOGS)
    for name in ("run", "exec"):
        if name == "exec":
            parsers[name].add_argument("--node", default="", help="in this node instead of the control place")
        parsers[name].add_argument("words", nargs="+", metavar="-- COMMAND")
    for name in ("stop", "start", "cable", "gpu"):
        parsers[name].add_argument("name")
    parsers["stop"].add_argument("--kill", action="store_true")
    parsers["cable"].add_argument("way", choices=("in", "out"))
    parsers["gpu"].add_argument("device", type=int)
    parsers["gpu"].add_argument("health", choices=("ill", "well"))
    return parser


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit status of ``process``. Ctrl-C reaches it from the terminal, SIGTERM must be passed on."""
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    except SystemExit:
        process.terminate()
        process.wait(timeout=60)
        raise


def _ended(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
