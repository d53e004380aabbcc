"""The next token as a function of logits, parameters, seed, choice and position: the same in any company, anywhere.

No state and no generator live here. A row's draw is the hash of (seed, choice, position), put through the inverse of
the distribution in order of token ids, so that a small error in a logit moves a boundary a little and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from forebay_worker.engine.said import Said

Top = tuple[tuple[int, float], ...]

BOUND = 1e30
"""What a request adds to a logit or divides it by takes it no further: no model says as much, and it is still a number
after the lowest temperature. So nothing that a caller asks for can look like a sick device."""


class NotFinite(ArithmeticError):
    """Logits hold no finite best: the device or the weights are sick. ``rows`` are those of the batch."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"no finite logit is largest in rows {list(rows)}")
        self.rows = tuple(rows)


@dataclass(frozen=True, slots=True)
class Params:
    """How the tokens of one request are chosen. The defaults are greedy, and everything else off.

    ``eos`` and stop strings may not come before ``min_tokens`` are out. ``top_logprobs`` counts only with ``logprobs``.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    eos: frozenset[int] = frozenset()
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    logprobs: bool = False
    top_logprobs: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def narrows(self) -> bool:
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    @property
    def penalizes(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1

    @property
    def plain(self) -> bool:
        """Whether logits are taken as they come."""
        return not (self.penalizes or self.logit_bias or self.min_tokens)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of logits: which token of which choice it decides. ``position`` is that token's index in the answer,
    ``said`` what came before it, for params that penalize it."""

    params: Params
    choice: int
    position: int
    said: Said | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """``logprob`` and ``top`` (most likely first) are the model's own, before temperature and penalties.

    0 and empty where the request did not ask."""

    token: int
    logprob: float = 0.0
    top: Top = ()


@torch.inference_mode()
def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[Choice]:
    """One token for each of ``logits`` [rows, vocabulary], float32, which stay as they are. Raises NotFinite.

    Only the model's own logits can be the device's fault: they are looked at before anything that was asked for."""
    best, tokens = logits.max(dim=-1)
    if not bool(best.isfinite().all()):
        raise NotFinite((~best.isfinite()).nonzero().flatten().tolist())
    shaped = _shaped(logits, rows)
    drawn: list[int] = (tokens if shaped is logits else shaped.max(dim=-1).indices).tolist()
    chance = [index for index, row in enumerate(rows) if not row.params.greedy]
    if chance:
        picked = shaped if len(chance) == len(rows) else shaped[chance]
        for index, token in zip(chance, _draw(picked, [rows[index] for index in chance]), strict=True):
            drawn[index] = token
    asked = [index for index, row in enumerate(rows) if row.params.logprobs]
    if not asked:
        return [Choice(token) for token in drawn]
    told = _logprobs(logits[asked], [rows[index].params for index in asked], [drawn[index] for index in asked])
    known = dict(zip(asked, told, strict=True))
    return [known.get(index) or Choice(token) for index, token in enumerate(drawn)]


def uniform(seed: int, choice: int, position: int) -> float:
    """The draw in [0, 1) of one token."""
    key = b"".join((number % 2**64).to_bytes(8, "little") for number in (seed, choice, position))
    return (int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def _shaped(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Logits after bias, penalties and forbidden ends; a copy where anything changed."""
    special = [index for index, row in enumerate(rows) if not row.params.plain]
    if not special:
        return logits
    shaped = logits.clone()
    for index in special:
        _shape(shaped[index], rows[index])
    return shaped


def _shape(logits: torch.Tensor, row: Row) -> None:
    params, vocabulary = row.params, logits.shape[-1]
    if row.said is not None:
        _penalize(logits, params, row.said)
    if params.logit_bias:
        bias = {token: value for token, value in params.logit_bias if 0 <= token < vocabulary}
        _add(logits, _ids(list(bias), logits), torch.tensor(list(bias.values()), device=logits.device))
    if row.position < params.min_tokens:
        ends = [token for token in params.eos if token < vocabulary]
        if len(ends) < vocabulary:
            logits[_ids(ends, logits)] = -torch.inf


def _penalize(logits: torch.Tensor, params: Params, said: Said) -> None:
    if params.repetition_penalty != 1:
        seen = said.seen.on(logits.device)
        values = logits[seen]
        scaled = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits[seen] = scaled.clamp(-BOUND, BOUND)
    if said.own.values:
        counts = said.counts.on(logits.device)
        _add(logits, said.own.on(logits.device), -(counts * params.frequency_penalty + params.presence_penalty))


def _add(logits: torch.Tensor, tokens: torch.Tensor, change: torch.Tensor) -> None:
    logits[tokens] = (logits[tokens] + change).clamp(-BOUND, BOUND)


def _ids(tokens: list[int], beside: torch.Tensor) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int64, device=beside.device)


def _draw(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    temperature = torch.tensor([row.params.temperature for row in rows], device=logits.device)
    scaled = logits / temperature[:, None]
    for index, row in enumerate(rows):
        if row.params.narrows:
            scaled[index].masked_fill_(scaled[index] < _least(scaled[index], row.params), -torch.inf)
    # Doubles: the sums of 150,000 floats would be off by more than a rare token's share.
    below = scaled.double().softmax(dim=-1).cumsum(dim=-1)
    draws = [uniform(row.params.seed, row.choice, row.position) for row in rows]
    targets = torch.tensor(draws, dtype=torch.float64, device=logits.device) * below[:, -1]
    tokens: list[int] = torch.searchsorted(below, targets[:, None], right=True).flatten().tolist()
    return tokens


def _least(logits: torch.Tensor, params: Params) -> torch.Tensor:
    """The smallest logit that may still be drawn: min_p, then top_k, then top_p of what is left."""
    least = logits.max() + (torch.tensor(params.min_p).log().item() if params.min_p > 0 else -torch.inf)
    if params.top_k > 0:
        largest = logits.topk(min(params.top_k, len(logits))).values
        least = torch.maximum(least, largest[-1])
    if params.top_p < 1:
        kept = logits if params.top_k <= 0 else largest
        kept = kept.sort(descending=True).values
        kept = kept[kept >= least]
        before = kept.double().softmax(dim=-1).cumsum(dim=-1)
        # The first at which the sum reaches top_p is the last that stays; the most likely one always does.
        last = int((before < params.top_p).sum().clamp(max=len(kept) - 1))
        least = torch.maximum(least, kept[last])
    return least


def _logprobs(logits: torch.Tensor, params: Sequence[Params], tokens: Sequence[int]) -> list[Choice]:
    """``tokens`` chosen from ``logits`` [rows, vocabulary], with what the model itself thought of them."""
    logprobs = logits.log_softmax(dim=-1)
    own = logprobs.gather(1, _ids(list(tokens), logits)[:, None]).flatten().tolist()
    width = min(max(each.top_logprobs for each in params), logits.shape[-1])
    values, indices = (tensor.tolist() for tensor in logprobs.topk(width, dim=-1))
    return [
        Choice(token, own[row], tuple(zip(indices[row], values[row], strict=True))[: params[row].top_logprobs])
        for row, token in enumerate(tokens)
    ]
