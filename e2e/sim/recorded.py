"""Traces that people have as files: one reader for each published format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random

from sim.lengths import AZURE_CONV_INPUT, AZURE_CONV_OUTPUT, Lengths
from sim.traces import Asked, Load

Row = tuple[str, float, int, int]
"""(function, seconds, tokens of the prompt, tokens of the answer)."""


class BadTrace(Exception):
    """A file, a line, and what is wrong there."""

    def __init__(self, path: Path, line: int, wrong: str) -> None:
        super().__init__(f"{path}, line {line}: {wrong}" if line else f"{path}: {wrong}")


def read(path: Path, kind: str, *, size: str = "8b") -> tuple[Load, ...]:
    """The functions of a trace, its first request at 0. Raises BadTrace."""
    if kind not in READERS:
        raise BadTrace(path, 0, f"format {kind!r} is not known: one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise BadTrace(path, 0, "there is no such file")
    found: dict[str, list[Asked]] = {}
    for function, at, prompt, answer in READERS[kind](path):
        found.setdefault(function, []).append((at, prompt, answer))
    if not found:
        raise BadTrace(path, 0, f"no request in it, read as {kind}")
    begun = min(at for asked in found.values() for at, _, _ in asked)
    return tuple(
        Load(name, size, name, recorded=tuple(sorted((at - begun, prompt, answer) for at, prompt, answer in asked)))
        for name, asked in sorted(found.items())
    )


def _azure_llm(path: Path) -> Iterator[Row]:
    for line, row in _rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        text = row["TIMESTAMP"]
        try:
            # Seven digits of a second are written; Python reads six.
            at = datetime.fromisoformat(text[:26]).timestamp()
        except ValueError:
            raise BadTrace(path, line, f"TIMESTAMP is {text!r}: 2023-11-16 18:15:46.6805900 would be right") from None
        yield (
            path.stem,
            at,
            _integer(path, line, row, "ContextTokens"),
            _integer(path, line, row, "GeneratedTokens"),
        )


def _burstgpt(path: Path) -> Iterator[Row]:
    """Answers of no tokens are failures and are left out. Times are whole seconds: each is moved within its second."""
    random = Random(path.name)
    for line, row in _rows(path, ("Timestamp", "Model", "Request tokens", "Response tokens")):
        answer = _integer(path, line, row, "Response tokens")
        if answer:
            at = _number(path, line, row, "Timestamp") + random.random()
            yield row["Model"], at, _integer(path, line, row, "Request tokens"), answer


def _mooncake(path: Path) -> Iterator[Row]:
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            yield path.stem, float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"])
        except (ValueError, TypeError, KeyError) as error:
            right = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46]}'
            raise BadTrace(path, line, f"{error!r}: {right} would be right") from None


def _azure_functions_2019(path: Path) -> Iterator[Row]:
    """Counts by the minute: requests are spread over theirs. There are no tokens in it: ours are drawn."""
    random = Random(path.name)
    for line, row in _rows(path, ("HashApp", "HashFunction", "1", "1440")):
        for minute in range(1, 1441):
            for _ in range(_integer(path, line, row, str(minute))):
                at = 60 * (minute - 1 + random.random())
                yield row["HashFunction"], at, *_lengths(random, AZURE_CONV_INPUT, AZURE_CONV_OUTPUT)


def _azure_functions_2021(path: Path) -> Iterator[Row]:
    """The time is that of the end. There are no tokens in it: ours are drawn."""
    random = Random(path.name)
    for line, row in _rows(path, ("app", "func", "end_timestamp", "duration")):
        at = _number(path, line, row, "end_timestamp") - _number(path, line, row, "duration")
        yield row["func"], at, *_lengths(random, AZURE_CONV_INPUT, AZURE_CONV_OUTPUT)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "azure-llm": _azure_llm,
    "burstgpt": _burstgpt,
    "mooncake": _mooncake,
    "azure-functions-2019": _azure_functions_2019,
    "azure-functions-2021": _azure_functions_2021,
}
FORMATS = tuple(READERS)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise BadTrace(path, 1, f"no column {', '.join(missing)}: there are {', '.join(reader.fieldnames or ())}")
        for row in reader:
            if any(row[column] in (None, "") for column in columns):
                raise BadTrace(path, reader.line_num, f"too few values: {', '.join(columns)} are needed")
            yield reader.line_num, row


def _number(path: Path, line: int, row: dict[str, str], column: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise BadTrace(path, line, f"{column} is {row[column]!r}: a number would be right") from None


def _integer(path: Path, line: int, row: dict[str, str], column: str) -> int:
    value = _number(path, line, row, column)
    if value < 0 or value != int(value):
        raise BadTrace(path, line, f"{column} is {row[column]!r}: a whole number, 0 or more, would be right")
    return int(value)


def _lengths(random: Random, prompts: Lengths, answers: Lengths) -> tuple[int, int]:
    return prompts.draw(random), answers.draw(random)
