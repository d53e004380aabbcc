"""A folder of somebody's own: only what is to be checked of it before it is opened."""

from __future__ import annotations

import hashlib
from pathlib import Path

from forebay_worker.artifact.errors import CHECKSUM_MISMATCH, INVALID_CHECKPOINT, CheckpointError
from forebay_worker.artifact.listing import TEXT, File, check_digest, manifest, select

_sums: dict[tuple[str, int, int], str] = {}
"""Of files by path, size and time of change, since this process began: a digest costs a read of all weights once."""


def check_folder(folder: Path, digest: str) -> None:
    """Read all files of the model and compare, if there is a ``digest``. Raises CheckpointError."""
    if not digest:
        return
    try:
        listing = select(str(folder), [_file(path) for path in folder.iterdir() if path.is_file()])
        sums = {file.name: _sum(folder / file.name, file) for file in listing.files}
    except OSError as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{folder}: cannot be read ({error.strerror})") from error
    check_digest(str(folder), digest, manifest(sums))


def text_sums(folder: Path) -> dict[str, str]:
    """Of the files that say what text is to this model. Raises CheckpointError and OSError."""
    paths = [folder / name for name in TEXT if (folder / name).is_file()]
    return {path.name: _sum(path, _file(path)) for path in paths}


def _file(path: Path) -> File:
    stat = path.stat()
    return File(path.name, stat.st_size, tag=str(stat.st_mtime_ns))


def _sum(path: Path, file: File) -> str:
    key = str(path), file.size, int(file.tag)
    if key not in _sums:
        with path.open("rb") as stream:
            _sums[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        if path.stat().st_mtime_ns != key[2]:
            del _sums[key]
            raise CheckpointError(CHECKSUM_MISMATCH, f"{path}: changed while it was being read")
    return _sums[key]
