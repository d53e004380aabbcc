"""A frozen listing: which files a model has at one state of its source, and what they must turn out to be. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from forebay_worker.artifact.errors import (
    ARTIFACT_NOT_FOUND,
    CHECKSUM_MISMATCH,
    INVALID_CHECKPOINT,
    CheckpointError,
)

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
SUMS = "SHA256SUMS"
SMALL = (
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Fetched whole when a checkpoint is opened; weights come in blocks when they are read."""
TEXT = tuple(name for name in SMALL if name not in (CONFIG, INDEX))
"""Of them, those that say how text becomes tokens, and where an answer ends."""
SMALL_BYTES = 64 << 20
"""The largest tokenizer known has 35 MB."""
WEIGHTS = ".safetensors"
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors")
MOST_FILES = 1024
HEADERS_BYTES = 16_000_000
"""Of all files of weights of a model together: DeepSeek-V3, with 90,000 tensors, has 13 MB."""
LARGEST = 1 << 50


@dataclass(frozen=True, slots=True)
class File:
    """``size`` in bytes. ``sha256`` and ``git`` (sha1 of a git blob) are hex; ``tag`` changes whenever the file does.
    What the source does not tell is empty."""

    name: str
    size: int
    sha256: str = ""
    git: str = ""
    tag: str = ""

    @property
    def version(self) -> str:
        """Says which content it is, the same on every node."""
        return next((f"{kind}:{value}" for kind, value in self._versions() if value), "")

    def _versions(self) -> Iterable[tuple[str, str]]:
        return ("sha256", self.sha256), ("git", self.git), ("tag", self.tag)


@dataclass(frozen=True, slots=True)
class Listing:
    """``files`` are sorted by name: what of the source makes a model, the rest left out."""

    identity: str
    revision: str
    files: tuple[File, ...]

    @property
    def key(self) -> str:
        """Names its folder in every cache."""
        return hashlib.sha256(f"{self.identity}\n{self.revision}".encode()).hexdigest()[:32]

    @property
    def weights(self) -> list[File]:
        return [file for file in self.files if file.name.endswith(WEIGHTS)]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Listing:
        """Raises ValueError for what we have not written."""
        try:
            found = json.loads(text)
            files = tuple(File(**file) for file in found["files"])
            return cls(found["identity"], found["revision"], files)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no listing: {error}") from error


def select(identity: str, files: Iterable[File], revision: str = "") -> Listing:
    """The listing of a folder with these files. Without a ``revision`` of the source's own, one is made of what tells
    the files apart. Raises CheckpointError when they make no model that may be loaded."""
    found = {file.name: file for file in files}
    if CONFIG not in found:
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{identity}: no {CONFIG}, so no checkpoint")
    shards = [name for name in found if SHARD.fullmatch(name)]
    if not shards and any(name.endswith(".bin") for name in found):
        raise CheckpointError(
            INVALID_CHECKPOINT,
            f"{identity}: has pickled weights (*.bin) only, which can run code; convert them to safetensors",
        )
    if not shards:
        raise CheckpointError(ARTIFACT_NOT_FOUND, f"{identity}: no safetensors file")
    chosen = tuple(found[name] for name in sorted({*shards, *(name for name in SMALL if name in found)}))
    for file in chosen:
        _check(identity, file)
    if len(chosen) > MOST_FILES:
        raise CheckpointError(INVALID_CHECKPOINT, f"{identity}: {len(chosen)} files; at most {MOST_FILES}")
    return Listing(identity, revision or _revision(chosen), chosen)


def _check(identity: str, file: File) -> None:
    limit = LARGEST if file.name.endswith(WEIGHTS) else SMALL_BYTES
    if not 0 <= file.size <= limit:
        raise CheckpointError(INVALID_CHECKPOINT, f"{identity}: {file.name} has {file.size} bytes; at most {limit}")
    if not file.version:
        raise CheckpointError(
            INVALID_CHECKPOINT,
            f"{identity}: the server tells neither ETag nor Last-Modified of {file.name}, so a change of it could not "
            f"be seen; put a {SUMS} file beside it",
        )


def _revision(files: Iterable[File]) -> str:
    facts = "".join(f"{file.name}|{file.size}|{file.version}\n" for file in files)
    return hashlib.sha256(facts.encode()).hexdigest()[:40]


def manifest(sums: Mapping[str, str]) -> str:
    """The digest of a model, given each file's: "sha256:" and the sum of what `sha256sum` prints, sorted by name."""
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def check_digest(identity: str, wanted: str, found: str) -> None:
    """Raises CheckpointError unless ``found`` is the manifest that is wanted; empty on either side passes."""
    if wanted and found and wanted != found:
        raise CheckpointError(CHECKSUM_MISMATCH, f"{identity}: its digest is {found}, but {wanted} is wanted")


def read_sums(text: str) -> dict[str, str]:
    """Sums by name, from what `sha256sum` prints. Lines of another form are passed over."""
    lines = re.findall(r"^([0-9a-f]{64}) [ *](?:\./)?([^/\n]+)$", text, re.MULTILINE)
    return {name: digest for digest, name in lines}
