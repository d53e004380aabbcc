"""One answer of a request: the tokens drawn so far, and what of them may be shown."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from forebay_worker.engine.batch import Sequence
from forebay_worker.engine.request import Request, TokenOut, TopToken
from forebay_worker.engine.said import Said
from forebay_worker.engine.sample import Choice, Params, Row
from forebay_worker.engine.text import Detokeniser, Text


@dataclass(eq=False, slots=True)
class Answer:
    """Choice ``index`` of ``request``, of at most ``limit`` tokens. ``output`` begins with the resumed ones."""

    request: Request
    params: Params
    index: int
    sequence: Sequence
    text: Text
    limit: int
    output: list[int] = field(default_factory=list)
    stopped: bool = False
    _detokeniser: Detokeniser = field(init=False)
    _said: Said | None = field(init=False)

    def __post_init__(self) -> None:
        """Replays what was resumed, silently: its reader has the text."""
        self._said = Said(self.request.prompt, self.output) if self.params.penalizes else None
        self._detokeniser = Detokeniser(self.text, self.request.stop, self.request.prompt)
        for index, token in enumerate(self.output):
            self.stopped = self._detokeniser.push(token, stops=self._stops(index)).stopped

    @property
    def complete(self) -> bool:
        """Whether the resumed tokens are all there will be."""
        return self._ended or len(self.output) >= self.limit

    @property
    def _ended(self) -> bool:
        """By itself, not for want of room."""
        ends = self.params.eos if not self.request.ignore_eos else frozenset()
        return self.stopped or (bool(self.output) and self.output[-1] in ends)

    def row(self) -> Row:
        """What the next token depends on, besides its logits."""
        return Row(self.params, self.index, len(self.output), self._said)

    def push(self, drawn: Choice) -> TokenOut:
        """The next token, as its reader gets it."""
        self.output.append(drawn.token)
        if self._said:
            self._said.add(drawn.token)
        text, finish = self._spell(drawn.token)
        event = TokenOut(
            choice=self.index,
            index=len(self.output) - 1,
            token=drawn.token,
            text=text,
            finish=finish,
            cached_tokens=min(self.sequence.cached, len(self.request.prompt)),
        )
        if not self.params.logprobs:
            return event
        spelt = self.text
        return replace(
            event,
            logprob=drawn.logprob,
            top=tuple(
                TopToken(token, spelt.piece(token), value, spelt.token_bytes(token)) for token, value in drawn.top
            ),
            piece=spelt.piece(drawn.token),
            raw=spelt.token_bytes(drawn.token),
        )

    def closing(self) -> TokenOut:
        """The last of the resumed tokens once more, for a reader that does not know that it is: no other fits here.
        Text that was held back comes with it."""
        last, text = len(self.output) - 1, self._detokeniser.flush().text
        return TokenOut(self.index, last, self.output[-1], text, finish="stop" if self._ended else "length")

    def _stops(self, index: int) -> bool:
        """Whether a stop string may end with this token: min_tokens hold it back as they do an end token."""
        return index >= self.params.min_tokens

    def _spell(self, token: int) -> tuple[str, str]:
        """What may be shown now, and why the answer ends with ``token`` if it does. An end token is not shown."""
        if token in self.params.eos and not self.request.ignore_eos:
            return self._detokeniser.flush().text, "stop"
        piece = self._detokeniser.push(token, stops=self._stops(len(self.output) - 1))
        if piece.stopped:
            return piece.text, "stop"
        if len(self.output) >= self.limit:
            rest = self._detokeniser.flush()
            return piece.text + rest.text, "length"
        return piece.text, ""
