"""One frame of ``stage.proto`` on a socket: written in one call, read and distrusted.

May not live here: connections, threads, and what a frame means.
"""

from __future__ import annotations

import socket
import struct
from math import prod
from typing import Any

import torch
from google.protobuf.message import DecodeError

from forebay_api.model import Epoch
from forebay_wire.v1 import model_pb2, stage_pb2

HEADER_LIMIT = 4 << 20  # block tables of a full batch stay far below
PAYLOAD_LIMIT = 1 << 30

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_LENGTHS = struct.Struct("<IQ")


class HopLost(Exception):
    """The connection to a neighbour cannot be used: it closed, timed out or sent something that is not a frame."""


def epoch_message(epoch: Epoch) -> model_pb2.Epoch:
    return model_pb2.Epoch(term=epoch.term, counter=epoch.counter)


def write(sock: socket.socket, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> int:
    """Send one frame and return its size in bytes. ``tensor`` is contiguous and on the CPU. Raises OSError."""
    payload = memoryview(b"")
    if tensor is not None:
        payload = _bytes_of(tensor.view(torch.uint8).reshape(-1))
    header = frame.SerializeToString()
    first = _LENGTHS.pack(len(header), len(payload)) + header
    sent = sock.sendmsg((first, payload))
    if sent < len(first):
        sock.sendall(first[sent:])
        sent = len(first)
    if sent < len(first) + len(payload):
        sock.sendall(payload[sent - len(first) :])
    return len(first) + len(payload)


def read(sock: socket.socket) -> tuple[stage_pb2.Frame, torch.Tensor | None]:
    """The next frame. Raises HopLost on anything else: end of file, silence, wrong sizes."""
    lengths = bytearray(_LENGTHS.size)
    _fill(sock, memoryview(lengths))
    header_size, payload_size = _LENGTHS.unpack(lengths)
    if header_size > HEADER_LIMIT or payload_size > PAYLOAD_LIMIT:
        raise HopLost(f"a frame claims {header_size} B of header and {payload_size} B of payload: over the limits")
    header = bytearray(header_size)
    _fill(sock, memoryview(header))
    try:
        frame = stage_pb2.Frame.FromString(bytes(header))
    except DecodeError as error:
        raise HopLost(f"a frame's header cannot be read: {error}") from error
    return frame, _payload(sock, frame, payload_size)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of ``tensor`` [bytes], uint8, on the CPU."""
    array: Any = tensor.numpy()
    return memoryview(array)


def _payload(sock: socket.socket, frame: stage_pb2.Frame, size: int) -> torch.Tensor | None:
    if not frame.dtype:
        if size:
            raise HopLost(f"a frame without dtype carries {size} B of payload")
        return None
    dtype = DTYPES.get(frame.dtype)
    if dtype is None or len(frame.shape) != 2 or prod(frame.shape) * dtype.itemsize != size:
        raise HopLost(f"a frame of {frame.dtype} {list(frame.shape)} carries {size} B of payload")
    raw = torch.empty(size, dtype=torch.uint8)
    _fill(sock, _bytes_of(raw))
    return raw.view(dtype).view(*frame.shape)


def _fill(sock: socket.socket, view: memoryview) -> None:
    while view:
        try:
            count = sock.recv_into(view)
        except TimeoutError as error:
            raise HopLost(f"silent for {sock.gettimeout()} s") from error
        except OSError as error:
            raise HopLost(f"connection failed: {error}") from error
        if not count:
            raise HopLost("connection closed")
        view = view[count:]
