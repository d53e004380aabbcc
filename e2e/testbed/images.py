"""The images of the test bed as archives, made when they are needed: the pause image, and one for all of Forebay."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from testbed import archive, programs, trees

PAUSE = "localhost/pause:testbed"
FOREBAY = "localhost/forebay"
"""Operator and gateway, and with `-worker` the worker: one tree is both, since what differs is mounted."""
TAG, NEXT_TAG = "e2e", "e2e-next"
"""``NEXT_TAG`` names the same tree once more, for upgrades."""


def provide(into: Path) -> list[Path]:
    """Archives to import on each node: kept ones from the cache, Forebay's made now ``into`` a folder."""
    mounts = trees.Mounts.here()
    kept = programs.folder() / "images"
    kept.mkdir(parents=True, exist_ok=True)
    pause = kept / "pause.tar"
    if not pause.exists():
        _pause(pause)
    base = kept / f"base-{trees.base_key(mounts)}"
    if not base.exists():
        for old in kept.glob("base-*"):
            shutil.rmtree(old)
        print("▸ collecting the libraries of the images", flush=True)
        with tempfile.TemporaryDirectory(dir=kept) as scratch:
            tree = Path(scratch) / "tree"
            trees.make_base(tree, mounts)
            tree.chmod(0o755)
            tree.rename(base)
    return [pause, _forebay(base, mounts, into / "forebay.tar")]


def _pause(path: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy2(programs.programs() / "pause", Path(scratch) / "pause")
        archive.write(archive.Image([PAUSE], [Path(scratch)], entrypoint=["/pause"]), path)


def _forebay(base: Path, mounts: trees.Mounts, path: Path) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        trees.make_product(Path(scratch))
        names = [f"{FOREBAY}{part}:{tag}" for part in ("", "-worker") for tag in (TAG, NEXT_TAG)]
        image = archive.Image(
            names, [base, Path(scratch)], env=trees.environment(mounts), user=f"{trees.USER}:{trees.USER}"
        )
        archive.write(image, path)
    return path
