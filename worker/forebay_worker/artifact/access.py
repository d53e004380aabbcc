"""What a checkpoint may be fetched with. A secret shows itself to nobody who does not ask for it by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A token that is never printed: neither logs nor tracebacks nor dumps of a holder show it."""

    value: str = ""

    def __repr__(self) -> str:
        return "Secret(***)" if self.value else "Secret()"

    def __bool__(self) -> bool:
        return bool(self.value)


@dataclass(frozen=True, slots=True)
class Access:
    """``revision``: which state of the source, empty = the newest. ``pinned``: somebody who was allowed to has resolved
    ``revision`` before, so a copy in the cache needs no new look at the source. ``digest``: "sha256:…" of the manifest
    that the files must make, empty = any."""

    revision: str = ""
    digest: str = ""
    credentials: Secret = Secret()
    pinned: bool = False
