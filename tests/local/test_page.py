"""The page in a real browser: workers, units and pipelines live while a question that it asked is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from local import browser
from local.system import function, running, write

QUESTION = "Why is the sky blue?"

ASK = """
document.querySelector('#prompt').value = %r;
document.querySelector('#send').click();
"""


@pytest.mark.skipif(browser.executable() is None, reason="no Chromium: install Debian's package chromium")
async def test_asking_from_the_page(tmp_path: Path, smollm2: Path) -> None:
    file = write(tmp_path / "functions.yaml", function("smollm2", smollm2))
    with running(tmp_path / "state", [file], workers=4, link_rate="50MB/s") as system:
        await system.ready(4)
        async with browser.page(f"{system.url}/ui", tmp_path / "profile") as page:
            await page.until("document.querySelectorAll('#fleet .name').length === 4")
            await page.until("document.querySelector('#functions').innerText.includes('smollm2')")
            await page.until("document.querySelector('#which').value !== ''")
            assert await page.value("document.querySelectorAll('#fleet .resident').length") == 0
            await page.value(ASK % QUESTION)
            # Units fill and the pipeline is drawn while the answer is still waited for.
            await page.until("document.querySelectorAll('#fleet .loading').length > 0")
            await page.until("document.querySelectorAll('#fleet path.path').length > 0")
            await page.until("!document.querySelector('#phase').hidden && document.querySelector('#phase').innerText")
            await page.picture(tmp_path / "loading.png")
            await page.until("document.querySelector('#answer').innerText.length > 20")
            await page.until("document.querySelectorAll('#cold .first, #cold line').length > 0")
            await page.picture(tmp_path / "answered.png")
            wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not await page.value(wide), "nothing is cut off at 1280 pixels"
            assert page.errors == []
