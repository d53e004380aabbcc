"""What a head is asked, and what it answers: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forebay_worker.engine.sample import Params


class Refused(StrEnum):
    """Why a request did not begin, or ended without its last token."""

    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    INVALID_REQUEST = "invalid_request"
    PIPELINE_UNKNOWN = "pipeline_unknown"
    PIPELINE_DRAINING = "pipeline_draining"
    PIPELINE_GONE = "pipeline_gone"
    HEAD_FULL = "head_full"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Resumed:
    """Tokens of one choice that its reader already has; ``finished``: all of them."""

    tokens: tuple[int, ...]
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """``prompt`` as token ids; ``n`` choices of at most ``max_tokens`` tokens each (0 = as many as fit).

    ``params.eos`` is filled in by the head. ``adapter`` is empty until adapters exist.
    """

    request_id: str
    function: str
    prompt: tuple[int, ...]
    params: Params = field(default_factory=Params)
    n: int = 1
    max_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    resumed: Mapping[int, Resumed] = field(default_factory=dict)
    adapter: str = ""

    @property
    def salt(self) -> str:
        """Within which prompts that begin alike are computed once. Were it wider, how soon an answer comes, and the
        count of cached tokens, would tell anybody what others have asked."""
        return f"{self.function}\n{self.adapter}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request waits for its turn or runs. First event of every request that is not refused."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TopToken:
    """An alternative, by itself: ``text`` as far as its bytes are text."""

    token: int
    text: str
    logprob: float
    raw: bytes


@dataclass(frozen=True, slots=True)
class TokenOut:
    """One token of one choice. ``index`` counts the choice's tokens from 0, resumed ones included.

    ``text`` is what may be shown now: empty while a character or a stop string is incomplete. ``piece`` and ``raw`` are
    this token alone, for readers of logprobs. ``finish`` is "", "stop" or "length".
    """

    choice: int
    index: int
    token: int
    text: str
    logprob: float = 0.0
    top: tuple[TopToken, ...] = ()
    finish: str = ""
    cached_tokens: int = 0
    piece: str = ""
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event. ``reason`` is None when every choice is finished."""

    reason: Refused | None = None
    message: str = ""


Event = Accepted | TokenOut | Ended
