"""What the machine must have before anything is fetched or started: all that is missing is said at once."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path

from testbed.shell import Failed, ran, run

GO = (1, 26)
PACKAGES = ("containerd", "runc", "containernetworking-plugins", "iptables", "conntrack")
"""Debian packages that `make testbed` installs if they are missing."""
COMMANDS = {"containerd": "containerd", "runc": "runc", "iptables": "iptables", "conntrack": "conntrack"}
"""How to see that a package is there: the command it brings."""
PLUGINS = Path("/usr/lib/cni")
TOOLS = {
    "nsenter": "util-linux", "unshare": "util-linux", "ip": "iproute2", "sysctl": "procps", "mount": "mount",
    "ldd": "libc-bin", "ldconfig": "libc-bin", "apt-get": "apt",
}  # fmt: skip


def missing(*, build: bool) -> list[str]:
    """Sentences about what is missing; empty = all there. ``build``: Kubernetes must still be compiled."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found.append(f"Linux on x86_64 (this is {sys.platform} on {platform.machine()})")
    if os.geteuid() != 0:
        found.append("root: nodes are namespaces, and kubelet and containerd mount (run it as root)")
    if not Path("/etc/debian_version").exists():
        found.append("Debian or a system made from it: containerd, runc and the network plugins come from its packages")
    found += [f"{tool}: install {package}" for tool, package in TOOLS.items() if not shutil.which(tool)]
    if not found and (said := _namespaces()):
        found.append(said)
    if build and (said := _go()):
        found.append(said)
    return found


def check(*, build: bool) -> None:
    """Raises `Failed` with everything that is missing."""
    if found := missing(build=build):
        raise Failed("the test bed needs what this machine has not:\n" + "\n".join(f"  - {line}" for line in found))


def commands(*names: str, path: str) -> None:
    """All that a cluster of somebody else's needs of this machine. Raises `Failed` with those that ``path`` lacks."""
    if absent := [name for name in names if not shutil.which(name, path=path)]:
        raise Failed(f"a given cluster needs what is not in PATH: {', '.join(absent)}")


def unpackaged() -> list[str]:
    """Debian packages of `PACKAGES` that must still be installed."""
    left = [package for package, command in COMMANDS.items() if not shutil.which(command)]
    if not (PLUGINS / "bridge").exists():
        left.append("containernetworking-plugins")
    return left


def _namespaces() -> str:
    """A container without privileges is root too, and may not make any."""
    try:
        run("unshare", "--mount", "--net", "--pid", "--fork", "mount", "--make-rprivate", "/")
    except Failed as error:
        return f"the right to make namespaces and to mount in them: {str(error).splitlines()[-1]}"
    return ""


def _go() -> str:
    wanted = ".".join(map(str, GO))
    if not shutil.which("go"):
        return f"Go {wanted} or newer: no `go` in PATH"
    version = ran("go", "env", "GOVERSION").stdout.strip()
    parts = re.match(r"go(\d+)\.(\d+)", version)
    if not parts or tuple(map(int, parts.groups())) < GO:
        return f"Go {wanted} or newer: `go` is {version or 'broken'}"
    return ""
