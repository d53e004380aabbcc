"""What people type, and what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim.__main__ import main


def test_a_table_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--trace", "burstgpt", "--hours", "0.05", "--functions", "1", "--policy", "forebay", "knative"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "commit " in shown
    assert "| forebay" in shown
    assert "| knative" in shown
    assert "keep-alive" not in shown
    assert "oracle: " in shown


def test_a_day_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["day", "--functions", "20", "--gpus", "64", "--hours", "0.2", "--policy", "forebay"]) == 0
    assert "20 functions" in capsys.readouterr().out


def test_a_file_that_a_person_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 100, "output_length": 5}\n')
    assert main(["run", "--file", str(path), "--format", "mooncake", "--hours", "0.1"]) == 0
    assert "mine.jsonl: 1 requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--gpus", "0"], "--gpus is 0: more than 0 would be right"),
        (["run", "--bucket", "-1"], "--bucket is -1: 0 or more would be right"),
        (["run", "--scale", "0"], "--scale is 0: more than 0 would be right (1: the published rate)"),
        (["day", "--hours", "0"], "--hours is 0: more than 0 would be right"),
        (["run", "--sweep", "grace=soon"], "--sweep 'grace=soon': 'grace=soon' is not one of grace, target"),
        (["run", "--file", "nowhere.csv"], "nowhere.csv: there is no such file"),
    ],
)
def test_wrong_values_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "examples:" in capsys.readouterr().out
