"""The dashboard's file: what Grafana needs to draw it, and what a person needs to read it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from dashboards.board import DASHBOARDS, RELEASE, ROOT, load, queries, variables

UNITS = {"short", "s", "bytes", "Bps", "percentunit", "reqps", "ops", "cps", "cpm"}
"""Of Grafana's; a word that it does not know it would print after each number."""

GRAFANAS = {"__rate_interval", "__range"}
EVERY = pytest.mark.parametrize("board", [pytest.param(load(path), id=path.stem) for path in DASHBOARDS])

Board = dict[str, Any]


def test_there_is_one() -> None:
    assert DASHBOARDS
    assert len({load(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


@EVERY
def test_what_grafana_needs(board: Board) -> None:
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    assert board["schemaVersion"] >= 39
    assert {"title", "panels", "templating", "time", "refresh", "tags"} <= board.keys()
    assert "id" not in board  # of a database that is not the reader's
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in board["panels"]:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


@EVERY
def test_panels_lie_side_by_side(board: Board) -> None:
    places = [panel["gridPos"] for panel in board["panels"]]
    for place in places:
        assert place["x"] >= 0 <= place["y"]
        assert place["w"] > 0 < place["h"]
        assert place["x"] + place["w"] <= 24, "Grafana has 24 columns"
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, f"{one} and {other} overlap"
    assert [place["y"] for place in places] == sorted(place["y"] for place in places), "rows own what follows them"


@EVERY
def test_every_panel_can_be_read(board: Board) -> None:
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    assert board["panels"][0]["type"] == "row"
    for panel in board["panels"]:
        if panel["type"] == "row":
            assert (panel["collapsed"], panel["panels"], panel["targets"]) == (False, [], [])
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["options"]["legend"]["showLegend"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@EVERY
def test_legends_name_labels_that_the_query_keeps(board: Board) -> None:
    for panel in board["panels"]:
        for target in panel["targets"]:
            kept = {label for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in re.split(r",\s*", by)}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, panel["title"]


@EVERY
def test_every_variable_is_there(board: Board) -> None:
    known = variables(board)
    assert list(known) == ["datasource", "release", "namespace", "function"]
    used = {name for query in queries(board) for name in re.findall(r"\$\{?(\w+)\}?", query.expr)}
    assert used - GRAFANAS == {"release", "namespace", "function"}
    for name in ("release", "namespace", "function"):
        assert known[name]["includeAll"]
        assert known[name]["current"]["value"] == ["$__all"]


@EVERY
def test_releases_are_chosen_everywhere(board: Board) -> None:
    """Of what several releases measure, a person sees one, or all."""
    for query in queries(board):
        selected = re.findall(
            r"\b((?:forebay_|vllm:)\w+)(\{[^}]*\})?", re.sub(rf"\b{RELEASE}\b", "release", query.expr)
        )
        assert selected
        for name, labels in selected:
            assert 'release=~"$release"' in labels, f"{query.panel}: {name}"


@EVERY
def test_windows_fit_any_scrape_interval(board: Board) -> None:
    """Grafana knows how far apart samples are; of our own there are only windows of many minutes."""
    for query in queries(board):
        for window in re.findall(r"\[([^]]+)\]", query.expr):
            assert window in {"$__rate_interval", "15m"}, query


def test_the_templates_take_these_files() -> None:
    template = (ROOT / "deploy/helm/forebay/templates/dashboard.yaml").read_text()
    assert [Path(name).name for name in re.findall(r"files/dashboards/[\w.]+", template)] == [
        path.name for path in DASHBOARDS
    ]
