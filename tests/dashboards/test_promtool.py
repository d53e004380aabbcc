"""The rules by Prometheus' own tool: they are well formed, and each alert is set off by what it is about alone."""

from __future__ import annotations

import collections
import re
import shutil
from pathlib import Path

import yaml

from dashboards.prometheus import RULES, WITH_PROMETHEUS, promtool

CASES = Path(__file__).with_name("rules_test.yaml")


@WITH_PROMETHEUS
def test_they_are_well_formed() -> None:
    said = promtool("check", "rules", RULES)
    assert said.returncode == 0, said.stdout + said.stderr


@WITH_PROMETHEUS
def test_they_fire_when_they_should(tmp_path: Path) -> None:
    """The file of cases names the rules beside it, as promtool wants it."""
    for path in (CASES, RULES):
        shutil.copy(path, tmp_path)
    said = promtool("test", "rules", tmp_path / CASES.name)
    assert said.returncode == 0, said.stdout + said.stderr


def test_each_alert_has_a_case_of_either_kind() -> None:
    kinds: dict[str, set[bool]] = collections.defaultdict(set)
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        (asked,) = case["promql_expr_test"]
        alert = case["name"].partition(":")[0]
        assert asked["expr"] == f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
        kinds[alert].add(bool(asked["exp_samples"]))
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert dict(kinds) == {rule["alert"]: {True, False} for rule in rules if "alert" in rule}


def test_what_alerts_say_is_filled_in() -> None:
    """Of labels, only those that the alert has when it fires."""
    labels: dict[str, set[str]] = collections.defaultdict(set)
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for sample in case["promql_expr_test"][0]["exp_samples"]:
            labels[case["name"].partition(":")[0]] |= set(re.findall(r"(\w+)=", sample["labels"]))
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            said = " ".join(rule.get("annotations", {}).values())
            assert set(re.findall(r"\$labels\.(\w+)", said)) <= labels[rule.get("alert", "")], rule
