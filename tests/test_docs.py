"""What the documents claim about the code: the metrics that there are, and the places that walks lead past."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("operator", "worker", "crds", "proto/forebay_process")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PROGRAMS = {
    "forebay_operator": ("operator",),
    "forebay_gateway": ("gateway",),
    "forebay_worker": ("worker",),
    "forebay_cli": ("cli",),
    "forebay_process": ("operator", "gateway", "worker"),
}
METRIC = re.compile(r"^(Counter|Gauge|Histogram|Info|Summary)(MetricFamily)?$")


def declared() -> Iterator[tuple[str, str, str, str]]:
    """(name as exposed, type, labels, program) of every metric that a source declares."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (kind := METRIC.match(node.func.id)):
                match node.args:
                    case [ast.Constant(value=str(name)), *_] if name.startswith(("forebay_", "vllm:")):
                        exposed = f"{name.removesuffix('_total')}_total" if kind[1] == "Counter" else name
                        for program in PROGRAMS[_package(path)]:
                            yield exposed, kind[1].lower(), ", ".join(_labels(node)), program


def _labels(call: ast.Call) -> list[str]:
    named = (word.value for word in call.keywords if word.arg in ("labels", "labelnames"))
    for given in (*call.args, *named):
        if isinstance(given, ast.List | ast.Tuple):
            return [element.value for element in given.elts if isinstance(element, ast.Constant)]
    return []


def _package(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


def listed() -> list[tuple[str, str, str, str]]:
    rows = re.findall(
        r"^\| `([^`]+)` \| (\w+) \| (.*?) \| (\w+) \| .+ \|$", (DOCS / "METRICS.md").read_text(), re.MULTILINE
    )
    return sorted((name, kind, labels.replace("`", ""), program) for name, kind, labels, program in rows)


def test_the_list_of_metrics_is_complete_and_true() -> None:
    assert listed() == sorted(declared())


OF_ALL = "forebay_certificate_expiry_timestamp_seconds"
"""Whoever holds a certificate has it; in local mode, where programs share a process, nobody does."""


def test_no_metric_is_declared_twice() -> None:
    """Two of one name would clash in a process that has both, and mean two things to whoever reads them."""
    names = [name for name, *_ in declared() if name != OF_ALL]
    assert [name for name in names if names.count(name) > 1] == []
    programs = [program for name, *_, program in declared() if name == OF_ALL]
    assert len(set(programs)) == len(programs) > 1


def named_places() -> list[tuple[str, str]]:
    pages = [DOCS / "architecture.md", ROOT / "CONTRIBUTING.md", *sorted((DOCS / "adr").glob("*.md"))]
    return sorted(
        {
            place
            for page in pages
            for place in re.findall(r"`([\w/]+\.py)(?::([\w.]+))?(?:\([^`]*\))?`", page.read_text())
        }
    )


@pytest.mark.parametrize(("file", "symbol"), named_places())
def test_a_place_that_is_named_exists(file: str, symbol: str) -> None:
    found = [path for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")] if path.as_posix().endswith(f"/{file}")]
    assert found, f"no {file}"
    for name in filter(None, symbol.split(".")):
        assert any(
            re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", path.read_text(), re.MULTILINE) for path in found
        ), name
