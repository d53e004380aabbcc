"""The dashboard as Grafana would read it: its panels and what they ask of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "forebay"
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
KUBERNETES = "Kubernetes"
"""The row of what only an operator in a cluster measures."""

RELEASE = "forebay_release"
"""A label, by which one release is chosen of several."""

Panel = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    row: str
    panel: str
    expr: str

    def ask(self, variables: Mapping[str, str]) -> str:
        """With Grafana's variables filled in. Raises KeyError for one that nobody gave."""
        return re.sub(r"\$\{?(\w+)\}?", lambda found: variables[found[1]], self.expr)

    def metrics(self) -> set[str]:
        """Names of metrics, as they are exposed."""
        return set(re.findall(r"\b(?:forebay_|vllm:)\w+", self.expr)) - {RELEASE}


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def queries(board: Mapping[str, Any]) -> Iterator[Query]:
    row = ""
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        for target in panel["targets"]:
            yield Query(row, panel["title"], target["expr"])


def variables(board: Mapping[str, Any]) -> dict[str, Panel]:
    return {each["name"]: each for each in board["templating"]["list"]}
