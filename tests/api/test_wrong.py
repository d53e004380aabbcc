"""Each resource that the API server refuses is refused by our own reading too, for the same field."""

from __future__ import annotations

from typing import Any

import pytest

from api.wrong import WRONG
from forebay_api import names
from forebay_api.function import Function
from forebay_api.pool import Pool
from forebay_api.stored import InvalidBody

KINDS = {"functions": (names.KIND, Function), "pools": (names.POOL_KIND, Pool)}
CASES = [
    pytest.param(*KINDS[group], case, id=f"{group}-{index}-{case['field']}")
    for group, cases in WRONG.items()
    for index, case in enumerate(cases)
]


@pytest.mark.parametrize(("kind", "read", "case"), CASES)
def test_a_wrong_resource_is_refused_for_its_field_alone(
    kind: str, read: type[Function] | type[Pool], case: dict[str, Any]
) -> None:
    body = {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {"name": case.get("name", "wrong")},
        "spec": case["spec"],
    }
    with pytest.raises(InvalidBody) as caught:
        read.from_body(body)
    for problem in caught.value.problems:
        assert problem.field.startswith(case["field"]) or case["field"].startswith(problem.field)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 20
