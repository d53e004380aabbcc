"""The cluster: one control place and its nodes, kept in a state folder so that any later command finds it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from testbed import images, programs, trees
from testbed.control import Control
from testbed.daemons import Daemons
from testbed.node import Node
from testbed.shell import Failed

STATE = Path("/tmp/forebay-testbed")
LOGS = Path("/tmp/forebay-testbed-logs")
"""Where they are kept when something went wrong."""
KEPT = "nodes,pods,events,leases,persistentvolumeclaims,deployments,workerpools.forebay.dev,llmfunctions.forebay.dev"
"""Kinds of objects that are kept beside the logs."""
SYSCTLS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
"""What a kubelet sets for the whole machine and we put back."""
GOODBYE = 2.0
"""Seconds for a daemon of the control place to end: nothing in it is worth more."""


@dataclass(frozen=True)
class Shape:
    """``nodes`` with ``gpus`` fake devices each."""

    nodes: int = 2
    gpus: int = 4


class Cluster:
    """A cluster of a state folder, whether it is up or not."""

    def __init__(self, state: Path, shape: Shape) -> None:
        self.state, self.shape = state, shape
        self.daemons = Daemons(state)
        self.control = Control(state, self.daemons, programs.programs())

    @classmethod
    def at(cls, state: Path) -> Cluster:
        """The one that was started there; raises `Failed` if there is none."""
        try:
            return cls(state, Shape(**json.loads((state / "shape.json").read_text())))
        except FileNotFoundError as error:
            raise Failed(f"no cluster in {state}: start one with `make cluster`") from error

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        count, cores = self.shape.nodes, sorted(os.sched_getaffinity(0))
        # Two nodes that compute on the same cores would slow each other down as no two machines do.
        shares = [cores[number::count] or cores for number in range(count)]
        return tuple(Node(self.control, index, self.shape.gpus, share) for index, share in enumerate(shares, 1))

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise Failed(f"no node {name!r}: there are {', '.join(node.name for node in self.nodes)}")

    def up(self) -> None:
        """Start everything. What an earlier cluster left in the folder goes first."""
        programs.provide()
        if self.state.exists():
            whole = (self.state / "shape.json").exists()
            (Cluster.at(self.state) if whole else self).down()
        began = time.monotonic()
        self.state.mkdir(parents=True, mode=0o755)
        (self.state / "shape.json").write_text(json.dumps(asdict(self.shape)))
        before = {name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS}
        (self.state / "sysctls.json").write_text(json.dumps(before))
        archives = images.provide(self.state) if self.nodes else []
        made = time.monotonic()
        authority = self.control.up()
        for node in self.nodes:
            node.up(authority, archives)
        for node in self.nodes:
            node.wait()
        if self.nodes:
            self.control.proxy(self.nodes[0].name)
        self._write_enter()
        print(f"▸ cluster up in {time.monotonic() - made:.1f} s (images before that {made - began:.1f} s)", flush=True)

    def down(self) -> None:
        """Stop everything and remove the state folder; goes on past what fails and raises `Failed` at the end."""
        began, wrong = time.monotonic(), []
        for node in self.nodes:
            try:
                node.down()
            except (Failed, OSError) as error:
                wrong.append(f"{node.name}: {error}")
        holder = self.control.holder
        for name in reversed([name for name in self.daemons.names() if not name.endswith("/holder")]):
            self.daemons.stop(name, grace=GOODBYE)
        self.daemons.stop(holder)
        saved = self.state / "sysctls.json"
        if saved.exists():
            for name, value in json.loads(saved.read_text()).items():
                Path("/proc/sys", name).write_text(value)
        shutil.rmtree(self.state, onerror=lambda _, path, error: wrong.append(f"{path}: {error[1]}"))
        if wrong:
            raise Failed("not all could be taken down:\n" + "\n".join(f"  - {line}" for line in wrong))
        print(f"▸ cluster down in {time.monotonic() - began:.1f} s", flush=True)

    def environment(self) -> Mapping[str, str]:
        """What a command needs to find this cluster and its programs."""
        return {
            **os.environ,
            "KUBECONFIG": str(self.control.config),
            "PATH": f"{programs.programs()}:{os.environ['PATH']}",
            "FOREBAY_TESTBED": str(self.state),
            "PYTHONPATH": str(trees.ROOT / "e2e"),
        }

    def inside(self, command: list[str], node: str = "") -> list[str]:
        """``command`` where the cluster's addresses answer, in the current working directory."""
        place = self.node(node) if node else self.control
        return [*map(str, place.inside), "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *command]

    @property
    def enter(self) -> Path:
        """A command for people: `enter kubectl get pods -A`, or a shell inside."""
        return self.state / "enter"

    def _write_enter(self) -> None:
        variables = {name: value for name, value in self.environment().items() if os.environ.get(name) != value}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        shell = '[ $# -gt 0 ] || set -- "${SHELL:-sh}"'
        inside = shlex.join(map(str, self.control.inside))
        go = f"""exec {inside} sh -c 'cd "$0" && exec "$@"' "$PWD" "$@" """.strip()
        self.enter.write_text("\n".join(["#!/bin/sh", *exports, shell, go, ""]))
        self.enter.chmod(0o755)

    def keep_logs(self, folder: Path, when: str = "the end") -> None:
        """Copy the daemons' logs and the pods' for who must find out what went wrong, and what the objects are now."""
        shutil.copytree(self.state / "logs", folder / "daemons", dirs_exist_ok=True)
        for node in self.nodes:
            pods = node.state / "pod-logs"
            if pods.exists():
                shutil.copytree(pods, folder / node.name, dirs_exist_ok=True)
        with suppress(Failed):  # the API server may be what went wrong
            objects = self.control.kubectl("get", KEPT, "-A", "-o", "yaml", "--ignore-not-found", limit=20).stdout
            (folder / f"objects at {when}.yaml").write_text(objects)
        print(f"▸ logs kept in {folder}", file=sys.stderr, flush=True)
