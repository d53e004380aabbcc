"""The token log of one generation: what was delivered, so that it can go on elsewhere and deliver nothing twice."""

from __future__ import annotations

from dataclasses import dataclass, field

from forebay_gateway.ask import Token


class Gap(Exception):
    """A token came before those in front of it: the head lost count."""


@dataclass(slots=True)
class ChoiceLog:
    tokens: list[int] = field(default_factory=list)
    finished: bool = False


class TokenLog:
    """Of ``n`` choices, each with its tokens in order."""

    def __init__(self, n: int) -> None:
        self.choices = [ChoiceLog() for _ in range(n)]

    def __repr__(self) -> str:
        return f"<TokenLog {[(len(c.tokens), 'finished' if c.finished else 'open') for c in self.choices]}>"

    @property
    def complete(self) -> bool:
        return all(choice.finished for choice in self.choices)

    @property
    def delivered(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)

    def take(self, token: Token) -> bool:
        """Whether this token is new; one that is known already is to be dropped. Raises Gap."""
        if not token.choice < len(self.choices):
            raise Gap(f"choice {token.choice} of {len(self.choices)}")
        choice = self.choices[token.choice]
        if choice.finished or token.index < len(choice.tokens):
            return False
        if token.index > len(choice.tokens):
            raise Gap(f"choice {token.choice}: token {token.index} came after {len(choice.tokens)} tokens")
        choice.tokens.append(token.token)
        choice.finished = bool(token.finish)
        return True

    def closes(self, token: Token) -> bool:
        """Whether the last token of a choice came once more, to say that there will be no other: a head where no more
        fits found it so when the generation came there."""
        choice = self.choices[token.choice]
        if choice.finished or not token.finish or token.index != len(choice.tokens) - 1:
            return False
        choice.finished = True
        return True
