"""One worker's part of a fetch, as a process of its own: what to load comes as arguments, what happened goes to stdout.

python fetching.py URI BLOCK_BYTES UNIT...        prints a line for each unit that has come
"""

from __future__ import annotations

import sys

from forebay_worker.artifact.access import Access
from forebay_worker.artifact.artifact import Artifact
from forebay_worker.load.checkpoint import CheckpointError, open_checkpoint
from forebay_worker.load.source import Source


def main(uri: str, block_bytes: str, *units: str) -> int:
    Artifact.block_bytes = int(block_bytes)
    try:
        checkpoint = open_checkpoint(uri, "auto", Access())
        for unit in map(int, units):
            source = Source(checkpoint.stamps, checkpoint.artifact)
            slices = checkpoint.tensors[unit]
            source.expect((piece.file, piece.offset, piece.offset + piece.nbytes) for piece in slices)
            for piece in slices:
                source.read(piece.file, piece.offset, [memoryview(bytearray(piece.nbytes))])
            source.close()
            sys.stdout.write(f"{unit}\n")
            sys.stdout.flush()
    except CheckpointError as error:
        sys.stdout.write(f"{error.reason}: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
