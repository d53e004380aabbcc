"""What the objects of a pool on a node are called: the same at every look, and safe as DNS labels and label values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Set
from itertools import count

LONGEST = 63
DIGEST = 8
INDEX_ROOM = 3
"""Characters of "-" and an index: a node has at most 16 workers of a pool, and a few names may be taken by others."""


def pod_name(pool: str, node: str, index: int) -> str:
    return f"{_stem(pool, node, LONGEST - INDEX_ROOM)}-{index}"


def claim_name(pool: str, node: str) -> str:
    return _stem(pool, node, LONGEST)


def node_label(node: str) -> str:
    """The value of the label that names a node: node names may be four times too long for one."""
    return node if len(node) <= LONGEST else _shortened(node, node, LONGEST)


def free_names(pool: str, node: str, taken: Set[str], number: int) -> tuple[tuple[int, str], ...]:
    """The lowest indexes whose names nobody has: "gpu" on "big-1" and "gpu-big" on "1" would share theirs."""
    free = ((index, name) for index in count() if (name := pod_name(pool, node, index)) not in taken)
    return tuple(next(free) for _ in range(number))


def _stem(pool: str, node: str, room: int) -> str:
    """``<pool>-<node>``; where that is too long, or no label (node names may have dots), its end is a hash of both."""
    plain = f"{pool}-{node}"
    label = re.sub(r"[^a-z0-9-]", "-", plain)
    return plain if label == plain and len(plain) <= room else _shortened(label, f"{pool}/{node}", room)


def _shortened(text: str, whole: str, room: int) -> str:
    digest = hashlib.sha256(whole.encode()).hexdigest()[:DIGEST]
    return f"{text[: room - DIGEST - 1].rstrip('-.')}-{digest}"
