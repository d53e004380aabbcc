"""Secrets that functions name for fetching their models: found where the system keeps them, told to workers, shown to
nobody. May not live here: how a cluster's Secrets are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from forebay_api.function import Function


class SecretKey(NamedTuple):
    """One value of a Secret. ``namespace`` is the function's."""

    namespace: str
    name: str
    key: str

    @classmethod
    def of(cls, function: Function) -> SecretKey | None:
        """What the function names; None when its model needs none."""
        credentials = function.spec.model.credentials
        if credentials is None:
            return None
        return cls(function.namespace, credentials.secret_ref.name, credentials.secret_ref.key)


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A secret's text, which shows itself in no log and no traceback."""

    value: str = ""

    def __repr__(self) -> str:
        return "Token(***)"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it cannot be had, in one sentence for people that names what would help."""

    message: str


class Credentials(Protocol):
    def find(self, wanted: SecretKey, *, doubted: bool = False) -> Token | Refused | None:
        """Never blocks. None = it is being fetched: whoever fetches has a pass made when it is there. ``doubted``: what
        was found did not help, so that it is looked at more often, and a pass made when it is another."""


class FromEnvironment:
    """Local mode: a variable with the key's name stands for the Secret."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    def find(self, wanted: SecretKey, *, doubted: bool = False) -> Token | Refused | None:
        value = self._environ.get(wanted.key)
        if not value:
            return Refused(f"spec.model.credentials: the environment variable {wanted.key} is not set")
        return Token(value)
