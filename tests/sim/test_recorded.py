"""Real traces: the published formats, and what is said of files that are not so."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim.recorded import BadTrace

from sim import recorded

MINUTES = ",".join(str(minute) for minute in range(1, 1441))
ZEROS = ",0" * 1438

SAMPLES = {
    "azure-llm": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,4808,10\n"
        "2023-11-16 18:15:47.6805900,110,27\n"
        "2023-11-16 18:15:49.1805900,34,1\n",
        {"trace": [(0.0, 4808, 10), (1.0, 110, 27), (2.5, 34, 1)]},
    ),
    "mooncake": (
        '{"timestamp": 500, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
        '{"timestamp": 1500, "input_length": 7, "output_length": 3, "hash_ids": []}\n'
        '{"timestamp": 1500, "input_length": 8, "output_length": 4, "hash_ids": []}\n',
        {"trace": [(0.0, 6955, 52), (1.0, 7, 3), (1.0, 8, 4)]},
    ),
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_file_of_each_format(tmp_path: Path, kind: str) -> None:
    text, requests = SAMPLES[kind]
    loads = recorded.read(written(tmp_path, text), kind)
    found = {load.name: [(round(at, 6), prompt, answer) for at, prompt, answer in load.requests()] for load in loads}
    assert found == requests


def test_burstgpt_without_failures_and_within_the_second(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,0,1087,Conversation log\n"
        "118,GPT-4,417,276,693,API log\n"
    )
    first, second = recorded.read(written(tmp_path, text), "burstgpt")
    assert (first.name, second.name) == ("ChatGPT", "GPT-4")
    assert [asked[1:] for asked in first.requests()] == [(472, 18)]
    assert 112 < next(second.requests())[0] < 114


def test_counts_by_the_minute_are_spread_over_it(tmp_path: Path) -> None:
    text = f"HashOwner,HashApp,HashFunction,Trigger,{MINUTES}\no,a,busy,http,2,1{ZEROS}\no,a,idle,timer,0,0{ZEROS}\n"
    (load,) = recorded.read(written(tmp_path, text), "azure-functions-2019")
    times = [at for at, _, _ in load.requests()]
    assert (load.name, len(times), times[0]) == ("busy", 3, 0.0)
    assert times == sorted(times)


def test_the_end_of_a_call_is_not_its_beginning(tmp_path: Path) -> None:
    text = "app,func,end_timestamp,duration\na,f,10.0,4.0\na,f,11.0,0.5\na,g,12.0,1.0\n"
    loads = recorded.read(written(tmp_path, text), "azure-functions-2021")
    assert {load.name: [at for at, _, _ in load.requests()] for load in loads} == {"f": [0.0, 4.5], "g": [5.0]}


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ("azure-llm", "TIMESTAMP,ContextTokens\n", "line 1: no column GeneratedTokens: there are TIMESTAMP, Context"),
        ("azure-llm", "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,2\n", "line 2: TIMESTAMP is 'noon': 2023-11-16"),
        (
            "azure-llm",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,many,2\n",
            "line 2: ContextTokens is 'many': a number would be right",
        ),
        (
            "azure-llm",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,-1,2\n",
            "line 2: ContextTokens is '-1': a whole number, 0 or more, would be right",
        ),
        ("azure-llm", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,1\n", "line 2: too few values"),
        ("azure-llm", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request in it, read as azure-llm"),
        ("mooncake", '{"timestamp": 1}\n', "line 1: KeyError('input_length')"),
        ("mooncake", "nonsense\n", "line 1: JSONDecodeError"),
        ("parquet", "", "format 'parquet' is not known: one of azure-llm"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, kind: str, text: str, wrong: str) -> None:
    with pytest.raises(BadTrace) as error:
        recorded.read(written(tmp_path, text), kind)
    assert wrong in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="there is no such file"):
        recorded.read(tmp_path / "none.csv", "mooncake")
