"""A checkpoint folder opened: what model it is, and which bytes of which file each unit consists of.

Imports no torch, reads headers only, and believes none of them. May not live here: loading.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forebay_api.model import Model, Unit, UnitKind
from forebay_worker.artifact import opening, small
from forebay_worker.artifact.access import Access
from forebay_worker.artifact.artifact import Artifact
from forebay_worker.artifact.cache import Cache
from forebay_worker.artifact.errors import (
    ARTIFACT_NOT_FOUND,
    INVALID_CHECKPOINT,
    UNAUTHORIZED,
    UNSUPPORTED_ARCHITECTURE,
    CheckpointError,
)
from forebay_worker.artifact.listing import CONFIG
from forebay_worker.artifact.local import check_folder, text_sums
from forebay_worker.artifact.uri import InvalidUri, Scheme, Uri, parse
from forebay_worker.load import shards
from forebay_worker.load.safetensors import BrokenFile, Entry, Header
from forebay_worker.load.tensors import DTYPES, ITEM_BYTES, Stamp, TensorSlice, layout
from forebay_worker.load.tied import two_matrices
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


@dataclass(frozen=True)
class Checkpoint:
    """``tensors[u]`` are those of unit u, by file and offset. ``tables`` are looked up by row: "tokens" (of a tied
    model the matrix of the last unit) and, where positions are learned, "positions". ``config`` is that of the model
    as its files have it: not tied when they hold two matrices."""

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
        folder = _folder(source, Cache.from_env())
        check_folder(folder, access.digest if access else "")
        return _open(uri, dtype, folder, None)
    artifact = opening.obtain(source, access)
    return _open(uri, dtype, artifact.folder, artifact)


def _open(uri: str, dtype: str, folder: Path, artifact: Artifact | None) -> Checkpoint:
    try:
        raw_config = shards.read(folder / CONFIG)
        config = shards.json_object(folder / CONFIG, raw_config)
        architecture = registry.find(config)
        dims = architecture.dims(config)
        _check_ends(folder, config, dims)
        headers = shards.headers(shards.find(folder, artifact), artifact)
        shards.check_index(folder, headers)
        if dims.tied and two_matrices(headers, architecture, artifact):
            config = {**config, "tie_word_embeddings": False}
            dims = architecture.dims(config)
        slices = _slices(headers, architecture, dims)
        _check_layers(slices, architecture, dims)
        units = _units(slices, architecture, dims, config)
        texts = text_sums(folder) if artifact is None else small.text_sums(artifact.place, artifact.listing)
    except (registry.InvalidConfig, BrokenFile) as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{folder}: {error}") from error
    except registry.UnsupportedArchitecture as error:
        raise CheckpointError(UNSUPPORTED_ARCHITECTURE, f"{folder}: {error}") from error
    except OSError as error:
        raise CheckpointError(INVALID_CHECKPOINT, f"{error.filename}: cannot be read ({error.strerror})") from error
    stored = _stored_dtype(slices.values())
    resolved = _resolve(dtype, stored)
    key = _key(raw_config, resolved, headers, texts, _vouching(artifact))
    model = _model(uri, resolved, key, architecture, dims, units)
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


def _folder(uri: Uri, cache: Cache) -> Path:
    folder = Path(uri.path)
    if not folder.is_dir():
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{folder}: no such folder")
    if cache.owns(folder):
        raise CheckpointError(
            UNAUTHORIZED,
            f"{folder}: is a model fetched from elsewhere; spec.model.uri must name the source it came from",
        )
    if not (folder / CONFIG).is_file():
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{folder}: no config.json, so no checkpoint")
    return folder


def _check_ends(folder: Path, config: Mapping[str, Any], dims: Dims) -> None:
    tuple(ends.ends(CONFIG, config, dims.vocab))
    file = folder / ends.GENERATION
    if file.is_file():
        tuple(ends.ends(file.name, shards.json_object(file, shards.read(file)), dims.vocab))


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


def _check_layers(slices: Iterable[str], architecture: Architecture, dims: Dims) -> None:
    """Before names and shapes of as many layers are made."""
    layer = re.compile(rf"{re.escape(architecture.layers)}\.(\d{{1,9}})\.")
    found = len({match[1] for match in map(layer.match, slices) if match})
    if found != dims.layers:
        raise BrokenFile(f"config.json: num_hidden_layers is {dims.layers}, but the files have {found} layers")


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


def _vouching(artifact: Artifact | None) -> str:
    """The source whose word alone says what the weights are; empty where somebody else vouches for them. Whoever runs a
    server, or owns a bucket, can give his files the tags and sums of another's; the hub has hashed them itself."""
    if artifact is None or artifact.listing.identity.startswith(f"{Scheme.HF}://"):
        return ""
    return artifact.listing.identity


def _key(raw_config: bytes, dtype: str, headers: Sequence[Header], texts: Mapping[str, str], source: str) -> str:
    """16 hex digits that change with anything a person may change: cheap for 140 GB, since no weights are read. All
    that share a key share one tokenizer and one chat template, too."""
    digest = hashlib.sha256()
    for part in (raw_config, dtype.encode(), source.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for name in sorted(texts):
        digest.update(f"{name}|{texts[name]}\n".encode())
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
