"""File trees of the images: this machine's own libraries and Forebay's packages; Python and its packages come mounted.

An image with torch in it would be gigabytes to import on every node at every start. So an image holds what the
interpreter and the compiled packages need from the system (the same files that serve them here), a shell, and
Forebay's own packages, byte-compiled. The interpreter and `.venv` are mounted read-only at the very paths they have
here, since an environment cannot move: `Mounts.paths`.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from testbed.shell import Failed, run

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path("opt/forebay")
"""Where an image has Forebay's packages."""
SOURCES = ("crds", "proto", "proto/gen", "operator", "worker")
COMMANDS = ("sh", "cat", "cp", "env", "id", "ls", "mkdir", "rm", "sleep", "tar")
USER = 65532
PASSWD = f"root:x:0:0:root:/:/bin/sh\nnonroot:x:{USER}:{USER}:nonroot:/tmp:/bin/sh\n"
GROUP = f"root:x:0:\nnonroot:x:{USER}:\n"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
UNWANTED = ("_tkinter",)
"""Compiled modules that no server imports and that pull in a window system."""


@dataclass(frozen=True)
class Mounts:
    """What a container needs besides its image. ``environment``: `.venv`; ``interpreter``: what it points to."""

    environment: Path
    interpreter: Path

    @classmethod
    def here(cls) -> Mounts:
        """Those of the running interpreter; raises `Failed` outside an environment."""
        if sys.prefix == sys.base_prefix:
            raise Failed("run this with the environment's interpreter: .venv/bin/python")
        return cls(Path(sys.prefix), Path(sys.base_prefix))

    @property
    def paths(self) -> tuple[Path, Path]:
        return self.environment, self.interpreter

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"


def environment(mounts: Mounts) -> dict[str, str]:
    """Variables of the images."""
    return {
        "PATH": f"{mounts.environment}/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"/{LIBRARY}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
    }


def base_key(mounts: Mounts) -> str:
    """Names the base tree: it changes with the interpreter and with any compiled module."""
    listed = [f"{path}:{path.stat().st_size}" for path in _compiled(mounts)]
    return hashlib.sha256("\n".join([sys.version, __doc__ or "", *COMMANDS, *listed]).encode()).hexdigest()[:16]


def make_base(tree: Path, mounts: Mounts) -> None:
    """Libraries, a shell and /etc into ``tree``."""
    for folder in ("usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "etc/ssl/certs", "dev", "proc", "sys", "run", "var"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (tree / name).symlink_to(f"usr/{name}")
    for path in mounts.paths:  # the runtime makes the last folder; those above must let anybody through
        (tree / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").mkdir(exist_ok=True)  # the checkout may lie below it
    (tree / "tmp").chmod(0o1777)
    commands = [Path(found) for name in COMMANDS if (found := shutil.which(name))]
    for command in commands:
        shutil.copy2(command, tree / "usr" / "bin" / command.name)
    for library in _libraries([mounts.python.resolve(), *commands, *_compiled(mounts)], mounts):
        target = tree / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(library, target)
    (tree / "etc/passwd").write_text(PASSWD)
    (tree / "etc/group").write_text(GROUP)
    (tree / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    if CERTIFICATES.exists():
        shutil.copy2(CERTIFICATES, tree / CERTIFICATES.relative_to("/"))
    run("ldconfig", "-r", tree)


def make_product(tree: Path) -> None:
    """Forebay's packages of this checkout, byte-compiled (eight workers import in half the time), into ``tree``."""
    library = tree / LIBRARY
    library.mkdir(parents=True)
    for source in SOURCES:
        for package in sorted((ROOT / source).glob("forebay_*")):
            if package.name == "forebay_wire" and source == "proto":  # the .proto files; the package is in proto/gen
                continue
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, library / package.name, ignore=ignored, dirs_exist_ok=True)
    # Times are not kept in a layer, so a compiled file may not be judged by its source's.
    compiled = compileall.compile_dir(
        library,
        quiet=1,
        stripdir=str(tree),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        raise Failed("Forebay's packages do not compile")


def _compiled(mounts: Mounts) -> list[Path]:
    found = {
        path
        for folder in (
            mounts.environment / "lib",
            mounts.interpreter / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}",
        )
        for path in folder.rglob("*.so*")
        if path.is_file() and not path.name.startswith(UNWANTED)
    }
    return sorted(found)


def _libraries(programs: list[Path], mounts: Mounts) -> list[Path]:
    """The files outside the mounts that ``programs`` are linked against, and the loader."""
    found: set[Path] = set()
    # ldd also fails when one of many files is not dynamic, or built for a device that is not here.
    for line in run("sh", "-c", 'ldd "$@" 2>/dev/null || true', "ldd", *programs, limit=300).splitlines():
        words = line.split()
        for word in words[2:3] if "=>" in words else words[:1]:
            if word.startswith("/") and not word.endswith(":") and not word.startswith(tuple(map(str, mounts.paths))):
                found.add(Path(os.path.abspath(word)))
    return sorted(found)
