"""Why a checkpoint cannot be used: a reason for machines and one sentence for people."""

from __future__ import annotations

ARTIFACT_NOT_FOUND = "ArtifactNotFound"
UNAUTHORIZED = "Unauthorized"
CHECKSUM_MISMATCH = "ChecksumMismatch"
UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture"
INVALID_CHECKPOINT = "InvalidCheckpoint"
SOURCE_UNAVAILABLE = "SourceUnavailable"
"""Passes by itself: the source or the way to it is out of order."""
CACHE_FULL = "CacheFull"
"""Of one node: its disk, or the part of it that models may take, is full of what is in use."""


class CheckpointError(Exception):
    """``reason`` is one of the above; ``message`` one sentence, which never has a secret in it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
