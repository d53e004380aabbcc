"""How much KV a pipeline gets, how long a request it takes, and how many steps may be on their way in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from forebay_api.model import Model, Stage
from forebay_operator.decide.ledger import BLOCK_TOKENS, MIN_KV_TOKENS, layers_of

WANTED_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class Quota:
    """``max_model_len`` is what one request may have, prompt and answer together; never more than the blocks hold."""

    blocks: int
    max_model_len: int


def min_tokens(max_model_len: int) -> int:
    """Below this a pipeline is not worth forming; whole blocks."""
    return -(-min(max_model_len, MIN_KV_TOKENS) // BLOCK_TOKENS) * BLOCK_TOKENS


def quota(model: Model, stages: Sequence[Stage], room: Mapping[str, int], max_model_len: int) -> Quota | None:
    """The KV of a pipeline, given the bytes each worker has left when all its units are paid; None when too little.

    A pipeline takes what it wants, up to half of what is left: the other half is for the pipelines that follow it on
    the same workers. The smallest stage decides."""
    least = min_tokens(max_model_len)
    tokens = max(max_model_len, WANTED_TOKENS)
    for stage in stages:
        per_token = layers_of(model, stage) * model.kv_bytes_per_token_per_layer
        if per_token:
            fits = max(room[stage.worker], 0) // per_token
            tokens = min(tokens, max(fits // 2, min(fits, least)))
    blocks = tokens // BLOCK_TOKENS
    if blocks * BLOCK_TOKENS < least:
        return None
    return Quota(blocks, min(max_model_len, blocks * BLOCK_TOKENS))


def steps_in_flight(compute: Iterable[frozenset[str]]) -> int:
    """How many of the stages can compute at once: those that share a core or a GPU, also by way of others, are one."""
    groups: list[frozenset[str]] = []
    for resources in compute:
        touching = [group for group in groups if group & resources]
        groups = [group for group in groups if not group & resources]
        groups.append(resources.union(*touching))
    return max(len(groups), 1)
