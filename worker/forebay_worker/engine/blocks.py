"""Who owns which KV block: integers only, no tensors, no clock.

A block is in use (one or more sequences hold it), idle (nobody holds it, but its contents are known and may be asked
for again) or plain (nobody holds it and its contents mean nothing):

    plain ──admit, grow──▶ in use ──release──▶ plain          a block that was never committed in full
      ▲                     ▲    └──release──▶ idle           a full one: its tokens are known by their digest
      └──────evicted────────│───────────────────┘ │
                            └─admit, same tokens──┘
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

EVICTED_TOGETHER = 16  # idle blocks leave in runs of this many, so that who comes next gets neighbouring ones
DIGEST_BYTES = 16
PLAIN_RUN = re.compile(b"\x01+")


class IntegrityError(RuntimeError):
    """The books of a block pool do not add up; the message holds the sums."""


@dataclass(slots=True)
class _Holding:
    blocks: tuple[int, ...]
    digest: bytes  # of all committed full blocks, and of the salt
    committed: int  # full blocks whose contents are known


class BlockPool:
    """Blocks 0 to ``blocks`` − 1 of ``block_tokens`` tokens each, for the sequences of one pipeline.

    Neighbouring blocks are preferred, since a sequence that lies in one piece needs no gathering. Not thread-safe.
    """

    def __init__(self, blocks: int, block_tokens: int) -> None:
        if blocks < 1 or block_tokens < 1:
            raise ValueError(f"a pool of {blocks} blocks of {block_tokens} tokens; both must be at least 1")
        self.blocks = blocks
        self.block_tokens = block_tokens
        self._holdings: dict[int, _Holding] = {}
        self._holders = [0] * blocks
        self._plain = bytearray(b"\x01" * blocks)
        self._plain_count = blocks
        self._digests: list[bytes | None] = [None] * blocks
        self._known: dict[bytes, int] = {}
        self._idle: dict[int, None] = {}  # in order of release: the first is the least recently used

    @property
    def free(self) -> int:
        """Blocks that a sequence could get: plain ones and idle ones."""
        return self._plain_count + len(self._idle)

    def admit(self, sequence: int, tokens: Sequence[int], salt: str = "") -> int | None:
        """Allocate blocks for all ``tokens`` and return how many leading ones have their KV already (fewer than all).

        None: there is no room, and nothing changed. KV is shared only within one ``salt``.
        Raises ValueError when the sequence is already here, or empty.
        """
        if sequence in self._holdings:
            raise ValueError(f"sequence {sequence} is already admitted")
        if not tokens:
            raise ValueError(f"sequence {sequence} has no tokens")
        shared, digest = self._shared(tokens, salt)
        fresh = self._blocks_for(len(tokens)) - len(shared)
        if fresh > self.free - sum(block in self._idle for block in shared):
            return None
        for block in shared:
            self._idle.pop(block, None)
            self._holders[block] += 1
        blocks = (*shared, *self._allocate(fresh, shared[-1] if shared else None))
        self._holdings[sequence] = _Holding(blocks, digest, len(shared))
        return len(shared) * self.block_tokens

    def grow(self, sequence: int, length: int) -> bool:
        """Make the table of ``sequence`` cover ``length`` tokens. False: there is no room, and nothing changed."""
        holding = self._holdings[sequence]
        fresh = self._blocks_for(length) - len(holding.blocks)
        if fresh > self.free:
            return False
        if fresh > 0:
            holding.blocks = (*holding.blocks, *self._allocate(fresh, holding.blocks[-1]))
        return True

    def table(self, sequence: int) -> tuple[int, ...]:
        """Blocks of ``sequence`` in order of its tokens. Raises KeyError for a sequence that is not here."""
        return self._holdings[sequence].blocks

    def commit(self, sequence: int, tokens: Sequence[int]) -> None:
        """The KV of these leading tokens of ``sequence`` is written at every stage: its full blocks may be shared."""
        holding = self._holdings[sequence]
        full = len(tokens) // self.block_tokens
        if full > len(holding.blocks):
            raise ValueError(f"sequence {sequence}: {len(tokens)} tokens committed, {len(holding.blocks)} blocks held")
        while holding.committed < full:
            block = holding.blocks[holding.committed]
            holding.digest = self._digest(holding.digest, tokens, holding.committed)
            holding.committed += 1
            if self._digests[block] is None and holding.digest not in self._known:
                self._digests[block] = holding.digest
                self._known[holding.digest] = block

    def release(self, sequence: int) -> None:
        """Give all blocks of ``sequence`` back; those with known contents stay idle. Raises KeyError."""
        for block in reversed(self._holdings.pop(sequence).blocks):  # a tail is worth less than the prefix before it
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._digests[block] is None:
                self._set_plain(block)
            else:
                self._idle[block] = None

    def check(self) -> None:
        """Raises IntegrityError unless every block is in exactly one state and every holder is known."""
        held = Counter(chain.from_iterable(holding.blocks for holding in self._holdings.values()))
        plain = {block for block in range(self.blocks) if self._plain[block]}
        known = {block: digest for block, digest in enumerate(self._digests) if digest is not None}
        sums = (
            f"{self.blocks} blocks, {len(held)} held by {len(self._holdings)} sequences, "
            f"{len(self._idle)} idle, {len(plain)} plain, {len(known)} with known contents"
        )
        rules = {
            "every block is held, idle or plain": len(held) + len(self._idle) + len(plain) == self.blocks
            and not (held.keys() & self._idle.keys() or held.keys() & plain or self._idle.keys() & plain),
            "the count of plain blocks is kept": self._plain_count == len(plain),
            "holders are counted": all(count == held[block] for block, count in enumerate(self._holders)),
            "idle blocks have known contents, plain ones have none": self._idle.keys() <= known.keys()
            and not plain & known.keys(),
            "contents are found where they are": {block: digest for digest, block in self._known.items()} == known,
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise IntegrityError(f"block pool: {sums}; broken: {'; '.join(broken)}")

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _digest(self, before: bytes, tokens: Sequence[int], block: int) -> bytes:
        first = block * self.block_tokens
        contents = array("I", tokens[first : first + self.block_tokens])
        return blake2b(before + contents.tobytes(), digest_size=DIGEST_BYTES).digest()

    def _shared(self, tokens: Sequence[int], salt: str) -> tuple[list[int], bytes]:
        """Blocks with the KV of the longest known prefix, and its digest. One token at least stays to be computed."""
        digest = blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest()
        shared: list[int] = []
        for index in range((len(tokens) - 1) // self.block_tokens):
            longer = self._digest(digest, tokens, index)
            block = self._known.get(longer)
            if block is None:
                break
            shared.append(block)
            digest = longer
        return shared, digest

    def _allocate(self, count: int, after: int | None) -> list[int]:
        """``count`` blocks, which are free: right ``after`` that one if they can be."""
        if count > self._plain_count:
            self._evict(max(count - self._plain_count, EVICTED_TOGETHER))
        chosen = list(self._choose(count, after))
        for block in chosen:
            self._plain[block] = 0
            self._holders[block] = 1
        self._plain_count -= len(chosen)
        return chosen

    def _choose(self, count: int, after: int | None) -> Iterator[int]:
        if after is not None and self._plain.startswith(b"\x01" * count, after + 1):
            yield from range(after + 1, after + 1 + count)
            return
        runs = sorted((match.span() for match in PLAIN_RUN.finditer(self._plain)), key=lambda run: run[0] - run[1])
        for first, end in runs:
            taken = min(count, end - first)
            # In the middle of the longest run, so that this sequence and the one before it both have room to grow.
            start = first + (end - first - taken) // 2 if first else 0
            yield from range(start, start + taken)
            count -= taken
            if not count:
                return

    def _evict(self, count: int) -> None:
        for block in list(self._idle)[:count]:
            del self._idle[block]
            digest = self._digests[block]
            if digest is not None:
                del self._known[digest]
            self._digests[block] = None
            self._set_plain(block)

    def _set_plain(self, block: int) -> None:
        self._plain[block] = 1
        self._plain_count += 1
