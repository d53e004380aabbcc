"""Which certificates to make, and whom to trust: decided from what there is, and the time.

    authority at two thirds of its life:  a new one signs from now on, the old one stays trusted
    SPREAD_SECONDS later:                 everybody trusts the new one, the roles' certificates are made anew
    SPREAD_SECONDS later:                 nobody shows a certificate of the old one, it is trusted no more

Pure: no keys, no clock, no calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forebay_operator.cluster.authority import Paper

SPREAD_SECONDS = 900.0
"""Until a changed Secret has reached every pod that mounts it, with much to spare: kubelets take a minute or two."""


@dataclass(frozen=True, slots=True)
class RoleHeld:
    """A role's certificate, and whom its holder trusts."""

    paper: Paper
    trusted: tuple[Paper, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What the Secrets have; None for what is missing, or of no use. ``trusted`` as the authority's Secret has it;
    ``roles``: by the name that the certificate must have."""

    authority: Paper | None
    trusted: tuple[Paper, ...]
    roles: Mapping[str, RoleHeld | None]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What to do. With ``new_authority`` that is all for now: decide again afterwards."""

    new_authority: bool
    trusted: tuple[Paper, ...]  # the authority that signs comes first
    make: frozenset[str]  # roles that get a new certificate
    tell: frozenset[str]  # and those that only learn whom to trust
    look: float  # when to decide again, unix seconds


def decide(held: Held, now: float) -> Renewal:
    authority = held.authority
    if authority is None or now >= authority.due:
        kept = (*_one(authority), *held.trusted)
        return Renewal(True, _valid(kept, now), frozenset(), frozenset(), now)
    old = _valid((each for each in held.trusted if each.key != authority.key), now)
    trusted = (authority, *(each for each in old if _in_use(each, authority, held, now)))
    make = frozenset(
        name for name, role in held.roles.items() if role is None or _renew(name, role.paper, authority, trusted, now)
    )
    tell = frozenset(
        name
        for name, role in held.roles.items()
        if name not in make and role is not None and _keys(role.trusted) != _keys(trusted)
    )
    return Renewal(False, trusted, make, tell, _look(held, authority, trusted, make, now))


def _renew(name: str, paper: Paper, authority: Paper, trusted: tuple[Paper, ...], now: float) -> bool:
    if name not in paper.names or now >= paper.ends or paper.issuer not in _keys(trusted):
        return True
    if paper.issuer == authority.key:
        return now >= paper.due
    # Not before everybody trusts the new authority, unless the old certificate will not do until then.
    return now >= authority.made + SPREAD_SECONDS or paper.ends < now + SPREAD_SECONDS


def _in_use(old: Paper, authority: Paper, held: Held, now: float) -> bool:
    """Whether somebody may still show a certificate that ``old`` signed."""
    papers = [role.paper for role in held.roles.values() if role is not None]
    shown = any(paper.issuer == old.key and now < paper.ends for paper in papers)
    replaced = any(paper.issuer == authority.key and now < paper.made + SPREAD_SECONDS for paper in papers)
    return shown or replaced


def _look(held: Held, authority: Paper, trusted: tuple[Paper, ...], make: frozenset[str], now: float) -> float:
    papers = [role.paper for name, role in held.roles.items() if role is not None and name not in make]
    times = [authority.due, *(paper.due for paper in papers if paper.issuer == authority.key)]
    if len(trusted) > 1 or make:
        times += [now + SPREAD_SECONDS, *(paper.made + SPREAD_SECONDS for paper in (authority, *papers))]
    return min(time for time in times if time > now)


def _valid(papers: Iterable[Paper], now: float) -> tuple[Paper, ...]:
    """Each once, without those that have ended."""
    return tuple({paper.key: paper for paper in papers if now < paper.ends}.values())


def _one(paper: Paper | None) -> tuple[Paper, ...]:
    return () if paper is None else (paper,)


def _keys(papers: tuple[Paper, ...]) -> frozenset[str]:
    return frozenset(paper.key for paper in papers)
