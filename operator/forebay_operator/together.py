"""Coroutines that live and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def together(*coroutines: Coroutine[None, None, None]) -> None:
    """Run all until cancelled, or until one raises: then the others are cancelled and waited for, and it is raised.
    One that just ends leaves the others running."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
