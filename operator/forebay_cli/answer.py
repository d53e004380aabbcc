"""An answer on a terminal: a live bar while the function loads, then the words as they come."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from forebay_cli.invoke import Text, Waiting, invoke


@dataclass(frozen=True, slots=True)
class Answer:
    """``first`` = seconds from sending the request to the first text; ``None`` when there was none."""

    text: str
    first: float | None


async def show(
    gateway: str, function: str, prompt: str, *, out: Console, err: Console, max_tokens: int | None = None
) -> Answer:
    """Stream one answer to ``out``, progress to ``err``. Raises InvokeFailed."""
    pieces: list[str] = []
    first: float | None = None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[left]}"),
        console=err,
        transient=True,
        disable=not err.is_terminal,  # a file would get an empty line for it
    )
    task = bar.add_task("waiting", total=100, left="")
    try:
        async for event in invoke(gateway, function, prompt, max_tokens=max_tokens):
            match event:
                case Waiting(phase, percent, eta):
                    bar.start()
                    bar.update(task, description=phase.lower(), completed=percent, left=f"{eta:.1f} s left")
                case Text(text, after):
                    if first is None:
                        first = after
                        bar.stop()
                    pieces.append(text)
                    out.print(text, end="", highlight=False, markup=False, soft_wrap=True)
    finally:
        bar.stop()
    out.print()
    return Answer("".join(pieces), first)
