"""What the links of workers give: where not all of them were measured, and where some are shared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from statistics import median

from forebay_operator.decide.seen import Link, WorkerSeen


def known(workers: Iterable[WorkerSeen], otherwise: float) -> tuple[WorkerSeen, ...]:
    """``workers``, each with a rate. One that has loaded nothing yet has none of its own, and is taken to be like the
    others of its pool: their median, and ``otherwise`` (bytes per second) where none of them has one."""
    seen = tuple(workers)
    measured: dict[str, list[float]] = {}
    for worker in seen:
        if worker.link.rate:
            measured.setdefault(worker.pool, []).append(worker.link.rate)
    typical = {pool: median(rates) for pool, rates in measured.items()}
    return tuple(
        worker
        if worker.link.rate
        else replace(worker, link=replace(worker.link, rate=typical.get(worker.pool, otherwise)))
        for worker in seen
    )


def share(link: Link, sharing: int = 1) -> float:
    """Bytes per second of one link while ``sharing`` load through its bucket, itself among them. A rate of 0 is
    unknown, and taken for no limit."""
    rate = link.rate or inf
    return min(rate, link.bucket_rate / sharing) if link.bucket else rate
