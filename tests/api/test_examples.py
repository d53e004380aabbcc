"""What `examples/` shows can be applied."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from forebay_api import names
from forebay_api.function import Function
from forebay_api.pool import Pool

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "cluster").glob("*.yaml"))
READERS = {names.KIND: Function, names.POOL_KIND: Pool}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_right_resource(path: Path) -> None:
    body = yaml.safe_load(path.read_text())
    assert body["apiVersion"] == names.API_VERSION
    body["metadata"].setdefault("namespace", "default")  # as kubectl does
    READERS[body["kind"]].from_body(body)
