"""A pytest plugin: answers that were compared with transformers' in this run, and how many parted at a coin toss.

Where the two best logits of the reference differ by less than `COIN_TOSS`, rounding decides on their order. Of a whole
run that may be 1 % of the answers, and one where fewer than a hundred were compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

COIN_TOSS = 1e-4


@dataclass
class Tally:
    compared: int = 0
    tossed: int = 0

    def count(self, *, tossed: bool) -> None:
        self.compared += 1
        self.tossed += tossed

    @property
    def excessive(self) -> bool:
        return self.tossed > max(1, self.compared // 100)


TALLY = Tally()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if TALLY.excessive:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.compared:
        verdict = ", which is more than 1 %: FAILED" if TALLY.excessive else ""
        said = f"same tokens: {TALLY.compared} answers compared, {TALLY.tossed} parted at a coin toss{verdict}"
        terminalreporter.write_line(said, red=TALLY.excessive)
