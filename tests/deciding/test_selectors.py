"""What a query is computed from is found in any expression, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_operator.decide.selectors import chooses, selectors


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("x", ["x"]),
        ("job:x:rate5m", ["job:x:rate5m"]),
        ('x{a="b"}', ['x{a="b"}']),
        ('{__name__="x"}', ['{__name__="x"}']),
        ('x {a="}"}', ['x{a="}"}']),
        ("x{a='it\\'s', b=`{`}", ["x{a='it\\'s', b=`{`}"]),
        ('sum(rate(x{a="b"}[1m])) / on() y', ['x{a="b"}', "y"]),
        ("sum by (pod, job) (x) / ignoring (pod) group_left (job) y", ["x", "y"]),
        ("x * on (a) group_left y", ["x", "y"]),
        ("SUM(x) BY (a) AND Y", ["x", "Y"]),
        ("sum without(a)(x)", ["x"]),
        ("count", ["count"]),
        ("count by (a) (count)", ["count"]),
        ("max_over_time(rate(x[5m:1m] offset 1h)[1h:])", ["x"]),
        ("x offset -5m > bool 0", ["x"]),
        ("x @ 1609746000 + x @ end()", ["x"]),
        ("histogram_quantile(0.9, sum by (le) (rate(x_bucket[1m]))) * 1e3 + .5 + 0x1f + Inf", ["x_bucket"]),
        ('label_replace(x, "a", "$1", "b", "y{z}") # and z', ["x"]),
        ("topk(3, x) unless y", ["x", "y"]),
        ('count_values("z", x)', ["x"]),
        ("x + x", ["x"]),
        ("42", []),
        ("vector(1) + time() * hour()", []),
        ('"x"', []),
        ("", []),
        ("sum by (", []),
        ("sum by (a", []),
    ],
)
def test_found(query: str, found: list[str]) -> None:
    assert list(selectors(query)) == found


def test_who_chooses_says_so() -> None:
    assert chooses("sum(x) or vector(0)")
    assert chooses("x UNLESS y")
    assert not chooses('x{a="this or that"} / y # or z')


@given(st.text(max_size=60))
def test_whatever_is_written_it_ends(query: str) -> None:
    assert all(found.strip() for found in selectors(query))


NAMES = st.sampled_from(["x", "forebay_inflight", "job:y:rate1m"])
LABELS = st.sampled_from(["", "{}", '{a="b"}', "{a!~'(}|{)'}"])
SELECTORS = st.builds(lambda name, labels: name + labels, NAMES, LABELS)
WRAPPED = st.sampled_from(
    ["{}", "sum({})", "sum by (z) ({})", "rate({}[1m])", "({} offset 1d)", "avg_over_time({}[1h:5m] offset 1h)", "-{}"]
)
JOINED = st.sampled_from([" + ", " / on (z) group_left (w) ", " and ", "\n# z\n> bool ", " ^ ignoring() "])


@given(st.lists(st.tuples(WRAPPED, SELECTORS), min_size=1, max_size=6), st.data())
def test_all_of_them_are_found(parts: list[tuple[str, str]], data: st.DataObject) -> None:
    texts = [wrapped.replace("{}", selector, 1) for wrapped, selector in parts]
    query = texts[0]
    for text in texts[1:]:
        query += data.draw(JOINED) + text
    assert set(selectors(query)) == {selector for _, selector in parts}
