"""Whether a model that ties its output matrix to its embedding, as its config has it, has two matrices in its files.

Then transformers ties nothing, and neither may we: fine-tuned heads are saved so. Some rows are looked at, since two
matrices that were trained apart agree in none. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from forebay_worker.artifact.artifact import SHORT, Artifact
from forebay_worker.artifact.cache import write
from forebay_worker.load.safetensors import Entry, Header
from forebay_worker.load.source import Source
from forebay_worker.load.tensors import Stamp
from forebay_worker.model.registry import Architecture

ROWS = 16
"""Looked at, spread over the vocabulary: few enough requests for a source far away."""

Found = tuple[Header, Entry]


def two_matrices(headers: Sequence[Header], architecture: Architecture, artifact: Artifact | None) -> bool:
    """Raises CheckpointError."""
    inside = {architecture.canonical(entry.name): (header, entry) for header in headers for entry in header.entries}
    embedding, head = (inside.get(f"{name}.weight") for name in (architecture.embedding, architecture.head))
    if embedding is None or head is None:
        return False
    if (embedding[1].dtype, embedding[1].shape) != (head[1].dtype, head[1].shape):
        return True
    if artifact is None:
        return _differ(embedding, head, None)
    # Remembered: who opens it from the cache alone, as zygotes do, has no way to these bytes.
    note = artifact.place.head(f"{head[0].file.name}.tied")
    if not note.exists():
        write(note, "no" if _differ(embedding, head, artifact) else "yes")
    return note.read_text() == "no"


def _differ(one: Found, other: Found, artifact: Artifact | None) -> bool:
    if not one[1].nbytes:
        return False
    return _rows(*one, artifact) != _rows(*other, artifact)


def _rows(header: Header, matrix: Entry, artifact: Artifact | None) -> list[bytes]:
    """What some rows begin with: no more is read than a header that lies could ask for."""
    count = matrix.shape[0]
    each = matrix.nbytes // count
    size = min(each, SHORT)
    offsets = [matrix.offset + each * row for row in sorted({step * (count - 1) // (ROWS - 1) for step in range(ROWS)})]
    if artifact is not None:
        ranges = [(offset, offset + size) for offset in offsets]
        return [bytes(content) for content in artifact.direct(header.file, ranges)]
    source = Source({header.file: Stamp(header.size, header.mtime_ns)})
    rows = [bytearray(size) for _ in offsets]
    try:
        for offset, row in zip(offsets, rows, strict=True):
            source.read(header.file, offset, [memoryview(row)])
    finally:
        source.close()
    return [bytes(row) for row in rows]
