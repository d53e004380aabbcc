"""What tests ask of a real Prometheus that evaluates the chart's rules, and of its tool."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dashboards.board import CHART
from prometheus_process import LIMIT, PrometheusProcess

RULES = CHART / "files" / "rules" / "forebay.yaml"
PATIENCE = LIMIT

WITH_PROMETHEUS = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no prometheus and promtool: the Debian package prometheus has both",
)


def promtool(*words: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *words], input=given, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str
    targets: int
    began: float

    def get(self, path: str, **words: str) -> Any:
        """The ``data`` of an answer. Raises AssertionError with what Prometheus says when it refuses."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}", timeout=PATIENCE
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {words}: {error.read().decode()}") from error

    def numbers(self, expr: str) -> list[float]:
        """All samples of all series since it began, a second apart, but those that are not numbers."""
        found = self.get("query_range", query=expr, start=str(self.began), end=str(time.time()), step="1")
        samples = [float(value) for series in found["result"] for _, value in series["values"]]
        return [value for value in samples if value == value]

    def empty(self, exprs: Sequence[str]) -> set[str]:
        """Those that no sample ever answered."""
        return {expr for expr in exprs if not self.numbers(expr)}

    def scraped(self) -> bool:
        """Whether samples of all targets are there, and all rules were evaluated."""
        found = self.get("query", query="count(up == 1)")["result"]
        counted = int(found[0]["value"][1]) if found else 0
        return counted == self.targets and all(rule["health"] != "unknown" for rule in self.rules())

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


@contextlib.contextmanager
def running(folder: Path, port: int, jobs: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """One on this port that scrapes these addresses by job and evaluates the chart's rules; ended with nothing left."""
    process = PrometheusProcess(folder, every="1s", rules=[RULES], port=port)
    process.scrape_jobs(jobs)
    began = time.time()
    try:
        process.start()
        yield Prometheus(process.url, sum(map(len, jobs.values())), began)
    finally:
        process.kill()


def wait_for(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.1)
