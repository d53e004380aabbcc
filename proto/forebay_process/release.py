"""Each series with the release it is of."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector

from forebay_api import names

VARIABLE = "FOREBAY_METRICS_RELEASE"


class InvalidRelease(ValueError):
    """A line for people."""


def told(environ: Mapping[str, str]) -> str:
    """The release, empty = none. Raises InvalidRelease."""
    text = environ.get(VARIABLE, "")
    if not re.fullmatch(r"[A-Za-z0-9._/-]{0,128}", text):
        raise InvalidRelease(f"{VARIABLE}={text!r}: expected at most 128 of A-Z a-z 0-9 . _ / -")
    return text


class Labelled(Collector):
    """What ``registry`` shows. A Prometheus that scrapes several releases could not tell them apart: functions are
    called alike in all of them."""

    def __init__(self, registry: CollectorRegistry, release: str) -> None:
        self._registry = registry
        self._label = {names.RELEASE_LABEL: release}

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not read what is not there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            shown = copy.copy(metric)
            shown.samples = [sample._replace(labels={**sample.labels, **self._label}) for sample in metric.samples]
            yield shown


def shown(release: str) -> CollectorRegistry:
    """To be exposed; ``release`` empty: everything as it is."""
    if not release:
        return REGISTRY
    found = CollectorRegistry()
    found.register(Labelled(REGISTRY, release))
    return found
