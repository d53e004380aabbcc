"""A checkpoint folder opened: what model it is, and which bytes of which file each unit consists of.

Imports no torch, reads headers only, and believes none of them. May not live here: loading.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forebay_api.model import Model, Unit, UnitKind
from forebay_worker.artifact import opening, small
from forebay_worker.artifact.access import Access
from forebay_worker.artifact.artifact import Artifact
from forebay_worker.artifact.errors import (
    ARTIFACT_NOT_FOUND,
    INVALID_CHECKPOINT,
    UNSUPPORTED_ARCHITECTURE,
    CheckpointError,
)
from forebay_worker.artifact.listing import WEIGHTS
from forebay_worker.artifact.local import check_folder
from forebay_worker.artifact.uri import InvalidUri, Scheme, Uri, parse
from forebay_worker.load.safetensors import BrokenFile, Entry, Header, parse_header, read_header
from forebay_worker.load.tensors import DTYPES, ITEM_BYTES, Stamp, TensorSlice, layout
from forebay_worker.model import ends, registry
from forebay_worker.model.registry import Architecture, Dims

__all__ = [
    "INVALID_CHECKPOINT",
    "ITEM_BYTES",
    "Checkpoint",
    "CheckpointError",
    "Stamp",
    "TensorSlice",
    "layout",
    "open_checkpoint",
]

MAX_JSON_BYTES = 64_000_000

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """``tensors[u]`` are those of unit u, by file and offset. ``tables`` are looked up by row: "tokens" (of a tied
    model the matrix of the last unit) and, where positions are learned, "positions"."""

    model: Model
    folder: Path
    config: Mapping[str, Any]
    architecture: Architecture
    tensors: tuple[tuple[TensorSlice, ...], ...]
    tables: Mapping[str, TensorSlice]
    stamps: Mapping[Path, Stamp]
    artifact: Artifact | None = None  # None: the folder is no cache's, all is there


def open_checkpoint(uri: str, dtype: str = "auto", access: Access | None = None) -> Checkpoint:
    """Inspect a checkpoint. ``dtype``: auto (as stored), float32, bfloat16 or float16. Raises CheckpointError.

    Without ``access`` only a folder or what the cache holds can be opened: nothing is asked of the net, and no thread
    is started."""
    try:
        source = parse(uri)
    except InvalidUri as error:
        raise CheckpointError(ARTIFACT_NOT_FOUND, str(error)) from None
    if source.scheme is Scheme.FILE:
        folder = _folder(source)
        check_folder(folder, access.digest if access else "")
        return _open(uri, dtype, folder, None)
    artifact = opening.obtain(source, access)
    return _open(uri, dtype, artifact.folder, artifact)


def _open(uri: str, dtype: str, folder: Path, artifact: Artifact | None) -> Checkpoint:
    try:
        raw_config = _read(folder / "config.json")
        config = _json_object(folder / "config.json", raw_config)
        architecture = registry.find(config)
        dims = architecture.dims(config)
        _check_ends(folder, dims)
        headers = _headers(_files(folder, artifact), artifact)
        _check_index(folder, headers)
        slices = _slices(headers, architecture, dims)
        units = _units(slices, architecture, dims, config)
    except (registry.InvalidConfig, BrokenFile) as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{folder}: {error}") from error
    except registry.UnsupportedArchitecture as error:
        raise CheckpointError(UNSUPPORTED_ARCHITECTURE, f"{folder}: {error}") from error
    except OSError as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{error.filename}: cannot be read ({error.strerror})") from error
    stored = _stored_dtype(slices.values())
    resolved = _resolve(dtype, stored)
    model = _model(uri, resolved, _key(raw_config, resolved, headers), architecture, dims, units)
    if artifact is not None:
        listing = artifact.listing
        model = replace(model, revision=listing.revision, digest=small.digest(artifact.place, listing))
    return Checkpoint(
        model=model,
        folder=folder,
        config=config,
        architecture=architecture,
        tensors=units,
        tables=_tables(slices, architecture),
        stamps={header.file: Stamp(header.size, header.mtime_ns) for header in headers},
        artifact=artifact,
    )


def _folder(uri: Uri) -> Path:
    folder = Path(uri.path)
    if not folder.is_dir():
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{folder}: no config.json, so no checkpoint")
    return folder


def _headers(files: Sequence[Path], artifact: Artifact | None) -> list[Header]:
    """Raises BrokenFile, CheckpointError and OSError."""
    if artifact is None:
        return [read_header(file) for file in files]
    listed = [artifact.file(file) for file in files]
    heads = artifact.heads(files)
    return [
        parse_header(file, head, about.size, about.version)
        for file, about, head in zip(files, listed, heads, strict=True)
    ]


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: more than {MAX_JSON_BYTES} bytes")
    return file.read_bytes()


def _json_object(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: not a JSON object")
    return value


def _check_ends(folder: Path, dims: Dims) -> None:
    for name in ends.FILES:
        if (folder / name).is_file():
            tuple(ends.ends(name, _json_object(folder / name, _read(folder / name)), dims.vocab))


def _files(folder: Path, artifact: Artifact | None) -> list[Path]:
    """The shards that the index names, else model.safetensors, else the only safetensors file there is."""
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
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
    return [artifact.folder / file.name for file in artifact.listing.files if file.name.endswith(WEIGHTS)]


def _weight_map(folder: Path) -> dict[str, str]:
    file = folder / INDEX
    weight_map = _json_object(file, _read(file)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(INVALID_CHECKPOINT, f"{file}: weight_map must map tensor names to file names")
    return weight_map


def _check_index(folder: Path, headers: Sequence[Header]) -> None:
    if not (folder / INDEX).is_file():
        return
    inside = {header.file.name: {entry.name for entry in header.entries} for header in headers}
    for name, file in _weight_map(folder).items():
        if name not in inside[file]:
            raise BrokenFile(f"the index says {name} is in {file}, but it is not")


def _slices(headers: Sequence[Header], architecture: Architecture, dims: Dims) -> dict[str, TensorSlice]:
    """All tensors that may be loaded, by today's name. Two of one name is an error."""
    slices: dict[str, TensorSlice] = {}
    for header in headers:
        for entry in header.entries:
            name = architecture.canonical(entry.name)
            if architecture.ignores(name, dims):
                continue
            if name in slices:
                raise BrokenFile(f"tensor {name} is in {slices[name].file.name} and in {header.file.name}")
            slices[name] = _slice(name, header, entry)
    return slices


def _slice(name: str, header: Header, entry: Entry) -> TensorSlice:
    if entry.dtype not in DTYPES:
        raise registry.UnsupportedArchitecture(
            f"{header.file.name}: tensor {name} has dtype {entry.dtype}; supported: {', '.join(DTYPES)}"
        )
    return TensorSlice(name, header.file, entry.offset, entry.nbytes, DTYPES[entry.dtype], entry.shape)


def _units(
    slices: Mapping[str, TensorSlice], architecture: Architecture, dims: Dims, config: Mapping[str, Any]
) -> tuple[tuple[TensorSlice, ...], ...]:
    units = []
    unclaimed = set(slices)
    for shapes in architecture.unit_shapes(dims, config):
        for name, shape in shapes.items():
            if name not in slices:
                raise BrokenFile(f"tensor {name} of {architecture.name} is missing")
            if slices[name].shape != shape:
                raise BrokenFile(
                    f"tensor {name} has shape {list(slices[name].shape)}; config.json makes it {list(shape)}"
                )
        unclaimed -= shapes.keys()
        units.append(tuple(sorted((slices[name] for name in shapes), key=lambda tensor: (tensor.file, tensor.offset))))
    if unclaimed:
        # A bias that nobody adds would make every answer wrong without a word.
        raise BrokenFile(f"tensor {min(unclaimed)} has no place in {architecture.name} as config.json describes it")
    return tuple(units)


def _stored_dtype(slices: Iterable[TensorSlice]) -> str:
    """The dtype of most bytes: norms may be stored more precisely than the matrices."""
    by_dtype: dict[str, int] = {}
    for tensor in slices:
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.nbytes
    return max(by_dtype, key=lambda dtype: (by_dtype[dtype], dtype))


def _resolve(wanted: str, stored: str) -> str:
    if wanted in ("auto", ""):
        return stored
    if wanted not in ITEM_BYTES:
        raise CheckpointError(INVALID_CHECKPOINT, f"dtype {wanted!r}: must be auto, {', '.join(ITEM_BYTES)}")
    return wanted


def _key(raw_config: bytes, dtype: str, headers: Sequence[Header]) -> str:
    """16 hex digits that change with anything a person may change: cheap for 140 GB, since no weights are read."""
    digest = hashlib.sha256()
    for part in (raw_config, dtype.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for header in headers:
        facts = f"{header.file.name}|{header.size}|{header.version}|{hashlib.sha256(header.raw).hexdigest()}\n"
        digest.update(facts.encode())
    return digest.hexdigest()[:16]


def _tables(slices: Mapping[str, TensorSlice], architecture: Architecture) -> dict[str, TensorSlice]:
    tables = {"tokens": slices[f"{architecture.embedding}.weight"]}
    if architecture.positions:
        tables["positions"] = slices[f"{architecture.positions}.weight"]
    return tables


def _model(
    uri: str,
    dtype: str,
    key: str,
    architecture: Architecture,
    dims: Dims,
    units: Sequence[Sequence[TensorSlice]],
) -> Model:
    last = len(units) - 1
    # Full attention equals sliding attention as long as a sequence fits into the window.
    max_model_len = min(dims.max_positions, dims.window or dims.max_positions)
    return Model(
        backbone=key,
        uri=uri,
        dtype=dtype,
        architecture=architecture.name,
        units=tuple(_unit(index, last, tensors, dtype) for index, tensors in enumerate(units)),
        tied=dims.tied,
        hidden_size=dims.hidden,
        layers=dims.layers,
        vocab_size=dims.vocab,
        max_model_len=max_model_len,
        kv_bytes_per_token_per_layer=2 * dims.kv_heads * dims.head_dim * ITEM_BYTES[dtype],
    )


def _unit(index: int, last: int, tensors: Sequence[TensorSlice], dtype: str) -> Unit:
    kind = UnitKind.EMBEDDING if index == 0 else UnitKind.HEAD if index == last else UnitKind.LAYER
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    return Unit(
        index=index,
        kind=kind,
        link_bytes=sum(tensor.nbytes for tensor in tensors),
        resident_bytes=layout(tensors, dtype)[1],
        parameters=0 if kind is UnitKind.EMBEDDING else weights,
    )
