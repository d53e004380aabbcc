"""What the page says of functions, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.conftest import System
from local import browser

pytestmark = pytest.mark.skipif(browser.executable() is None, reason="no Chromium: install Debian's package chromium")

FUNCTION = {"namespace": "default", "name": "chat", "state": "Serving", "ready": 2, "desired": 3, "model": "m"}
LONG = "rising: 23.6 requests expected in 40 s (gateways), 10 per replica: 3 replicas; maxReplicas is 3" * 3
ROWS = "[...document.querySelectorAll('#functions tbody tr')].map((row) => row.innerText.trim())"
WHY = "document.querySelector('#functions tr.why td')"


def view(**scaling: object) -> str:
    decision = {"time": 1.0, "desired": 3, "current": 2, "reason": "Trend", "limit": "", "message": "", "decisions": []}
    shown = [{**FUNCTION, "scaling": {**decision, **scaling} if scaling else None}, {**FUNCTION, "name": "new"}]
    return json.dumps({"functions": shown})


async def test_each_function_says_in_one_line_why_it_has_its_replicas(system: System, tmp_path: Path) -> None:
    system.operator.view = view(message=LONG)
    async with browser.page(f"{system.url}/ui", tmp_path / "profile") as page:
        await page.until(f"{WHY} !== null")
        assert await page.value(f"{WHY}.innerText") == f"3 wanted, 2 there: {LONG}"
        assert await page.value(f"{WHY}.title") == f"3 wanted, 2 there: {LONG}"
        # One line, however long, and nothing sticks out.
        name = "document.querySelector('#functions tbody td b')"
        assert await page.value(f"{WHY}.getBoundingClientRect().height < 2 * {name}.getBoundingClientRect().height")
        assert await page.value(f"{WHY}.scrollWidth > {WHY}.clientWidth")
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await page.value(wide)
        # Of one that no pass has decided of yet there is no such line.
        assert len(await page.value(ROWS)) == 3
        await page.picture(tmp_path / "decided.png")
        system.operator.view = view(desired=0, current=2, message="idle for 30 s <b>x</b>")
        await page.until(f"{WHY}.innerText.startsWith('0 wanted')")
        assert await page.value(f"{WHY}.innerText") == "0 wanted, 2 there: idle for 30 s <b>x</b>"
        assert page.errors == []
