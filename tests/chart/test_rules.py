"""Dashboard and rules as the chart carries them: whole, behind their values, and of metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, EVERYTHING, ROOT, every_helm, render
from dashboards.board import DASHBOARDS, RELEASE, load, queries

RULES = CHART / "files" / "rules" / "forebay.yaml"
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
ON = {"metrics": {"rules": {"enabled": True, "labels": {"release": "prometheus"}, "annotations": {"a": "b"}}}}
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum")}
WITH_HELM = pytest.mark.parametrize("helm", every_helm())


def exposed() -> set[str]:
    """Names of all series, by the list of metrics."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w+)", (ROOT / "docs" / "METRICS.md").read_text(), re.MULTILINE)
    return {f"{name}{suffix}" for name, kind in rows for suffix in SUFFIXES.get(kind, ("",))}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@WITH_HELM
def test_rules_are_carried_whole(helm: Path) -> None:
    (rule,) = render(helm, ON, *OPERATOR).of("PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert rule["metadata"]["name"] == "forebay"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["metadata"]["labels"]["app.kubernetes.io/part-of"] == "forebay"
    assert rule["metadata"]["annotations"] == {"a": "b"}


@WITH_HELM
def test_rules_need_a_value_and_their_kind(helm: Path) -> None:
    assert render(helm, None, *OPERATOR).of("PrometheusRule") == {}
    assert render(helm, ON).of("PrometheusRule") == {}


@WITH_HELM
def test_the_dashboard_is_carried_whole(helm: Path) -> None:
    assert "forebay-dashboard" not in render(helm).of("ConfigMap")
    body = render(helm, EVERYTHING).one("ConfigMap", "forebay-dashboard")
    assert body["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert body["metadata"]["annotations"]["grafana_folder"] == "LLM"
    assert {name: yaml.safe_load(text) for name, text in body["data"].items()} == {
        path.name: load(path) for path in DASHBOARDS
    }


def test_the_dashboard_draws_metrics_that_exist() -> None:
    drawn = {name for path in DASHBOARDS for query in queries(load(path)) for name in query.metrics()}
    assert drawn
    assert drawn - exposed() == set()


def test_rules_are_about_metrics_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = {name for rule in rules() for name in re.findall(r"[\w:]*\bforebay_\w+(?::\w+)?", rule["expr"])} - {RELEASE}
    assert {name for name in named if ":" in name} <= recorded
    assert {name for name in named if ":" not in name} <= exposed()


def test_rules_keep_releases_apart() -> None:
    """Whatever is summed up is summed up by release; one Prometheus may scrape several."""
    for rule in rules():
        expr = rule["expr"]
        groups = re.findall(r"\b(?:sum|max|min|group|count|avg)\b(?: by \(([^)]*)\))?", expr)
        groups += re.findall(r"\bon \(([^)]*)\)", expr)
        assert all(RELEASE in labels.split(", ") for labels in groups), expr


def test_alerts_say_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    names = [rule["alert"] for rule in alerts]
    assert len(set(names)) == len(names)
    for rule in alerts:
        assert re.fullmatch(r"Forebay([A-Z][a-z]+)+", rule["alert"])
        assert re.fullmatch(r"\d+m", rule["for"]), rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
        assert {"summary", "description", "action"} == rule["annotations"].keys(), rule["alert"]
        assert all(text.endswith(".") for text in rule["annotations"].values()), rule["alert"]
