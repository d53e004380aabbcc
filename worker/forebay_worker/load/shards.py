"""The files of weights that make a checkpoint, and their headers: few enough, and small enough, to be looked at.

Nobody pays for what he puts into a config or a header but this process, so all of it is bounded before it is built.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forebay_worker.artifact.artifact import Artifact
from forebay_worker.artifact.errors import ARTIFACT_NOT_FOUND, INVALID_CHECKPOINT, CheckpointError
from forebay_worker.artifact.listing import HEADERS_BYTES, INDEX, MOST_FILES
from forebay_worker.load.safetensors import BrokenFile, Header, parse_header, read_header

MAX_JSON_BYTES = 16_000_000
"""The longest index known has 9 MB, for 90,000 tensors."""
MOST_TENSORS = 100_000


def find(folder: Path, artifact: Artifact | None) -> list[Path]:
    """The shards that the index names, else model.safetensors, else the only safetensors file there is."""
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        if len(names) > MOST_FILES:
            raise CheckpointError(
                INVALID_CHECKPOINT, f"{folder / INDEX}: names {len(names)} files; at most {MOST_FILES}"
            )
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(
                    INVALID_CHECKPOINT, f"{folder / INDEX}: {name!r} is not the name of a file beside it"
                )
            if not _exists(folder / name, artifact):
                raise CheckpointError(INVALID_CHECKPOINT, f"{folder}: the index names {name}, which is not there")
        return [folder / name for name in names]
    if _exists(folder / "model.safetensors", artifact):
        return [folder / "model.safetensors"]
    found = sorted(folder.glob("*.safetensors")) if artifact is None else _listed(artifact)
    if len(found) > 1:
        raise CheckpointError(INVALID_CHECKPOINT, f"{folder}: {len(found)} safetensors files, but no {INDEX}")
    if not found and any(folder.glob("*.bin")):
        raise CheckpointError(
            INVALID_CHECKPOINT,
            f"{folder}: has pickled weights (*.bin) only, which can run code; convert them to safetensors",
        )
    if not found:
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{folder}: no safetensors file")
    return found


def _exists(file: Path, artifact: Artifact | None) -> bool:
    """Whether it is here, or can come."""
    return file.is_file() if artifact is None else file in _listed(artifact)


def _listed(artifact: Artifact) -> list[Path]:
    return [artifact.folder / file.name for file in artifact.listing.weights]


def headers(files: Sequence[Path], artifact: Artifact | None) -> list[Header]:
    """Raises BrokenFile, CheckpointError and OSError."""
    heads = None if artifact is None else artifact.heads(files)
    found: list[Header] = []
    left, tensors = HEADERS_BYTES, 0
    for index, file in enumerate(files):
        if artifact is None or heads is None:
            header = read_header(file, left)
        else:
            about = artifact.file(file)
            header = parse_header(file, heads[index], about.size, about.version, limit=left)
        left, tensors = left - len(header.raw), tensors + len(header.entries)
        if tensors > MOST_TENSORS:
            raise BrokenFile(f"{file.name}: more than {MOST_TENSORS} tensors with those of the files before it")
        found.append(header)
    return found


def read(file: Path) -> bytes:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: more than {MAX_JSON_BYTES} bytes")
    return file.read_bytes()


def json_object(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: not a JSON object")
    return value


def _weight_map(folder: Path) -> dict[str, str]:
    file = folder / INDEX
    weight_map = json_object(file, read(file)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: weight_map must map tensor names to file names")
    return weight_map


def check_index(folder: Path, headers: Sequence[Header]) -> None:
    if not (folder / INDEX).is_file():
        return
    inside = {header.file.name: {entry.name for entry in header.entries} for header in headers}
    for name, file in _weight_map(folder).items():
        if name not in inside[file]:
            raise BrokenFile(f"the index says {name} is in {file}, but it is not")
