"""Server-sent events, as bytes."""

from __future__ import annotations

import msgspec

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # or nginx would collect the stream
}
DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def data(value: object) -> bytes:
    return b"data: " + _encoder.encode(value) + b"\n\n"


def event(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: ".encode() + _encoder.encode(value) + b"\n\n"


def raw_event(name: str, text: str) -> bytes:
    """``text`` is one line of JSON already."""
    return f"event: {name}\ndata: {text}\n\n".encode()


def comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection alive, or tells the curious something."""
    return f": {text}\n\n".encode()
