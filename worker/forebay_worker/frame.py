"""One frame of ``stage.proto``: on a socket, written in one call; in Stage.Run, in pieces. Read and distrusted.

May not live here: connections, threads, and what a frame means.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from google.protobuf.message import DecodeError

from forebay_api.model import Epoch
from forebay_wire.v1 import model_pb2, stage_pb2

HEADER_LIMIT = 4 << 20  # block tables of a full batch stay far below
PAYLOAD_LIMIT = 1 << 30
PIECE = 1 << 20  # of a payload, at most, in one message of Stage.Run

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
        payload = bytes_of(tensor)
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


def pieces(frame: stage_pb2.Frame, payload: memoryview) -> Iterator[stage_pb2.Frame]:
    """``frame`` as messages of Stage.Run; it becomes the first one itself."""
    frame.payload = bytes(payload[:PIECE])
    yield frame
    for begin in range(PIECE, len(payload), PIECE):
        yield stage_pb2.Frame(payload=bytes(payload[begin : begin + PIECE]))


class Assembly:
    """Makes the frames of one call of Stage.Run whole again."""

    def __init__(self) -> None:
        self._frame: stage_pb2.Frame | None = None  # its beginning is here
        self._tensor: torch.Tensor | None = None
        self._left = memoryview(b"")  # to be filled

    def add(self, piece: stage_pb2.Frame) -> tuple[stage_pb2.Frame, torch.Tensor | None] | None:
        """The next message; a frame when this was the last one of it. Raises HopLost when it does not fit."""
        payload = piece.payload
        if self._frame is None:
            self._left, self._tensor = _room(piece)
            self._frame = piece
        elif not payload or piece.dtype or piece.heartbeat or piece.HasField("epoch"):
            raise HopLost(f"a frame began before {len(self._left)} B of the last one had come")
        if len(payload) > len(self._left):
            raise HopLost(f"{_said(self._frame)} carries more payload than that")
        if payload:
            self._left[: len(payload)] = payload
            self._left = self._left[len(payload) :]
        if self._left:
            return None
        frame, self._frame = self._frame, None
        return frame, self._tensor


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of ``tensor``, contiguous and on the CPU, as bytes."""
    array: Any = tensor.view(torch.uint8).reshape(-1).numpy()
    return memoryview(array)


def _payload(sock: socket.socket, frame: stage_pb2.Frame, size: int) -> torch.Tensor | None:
    room, tensor = _room(frame)
    if len(room) != size:
        raise HopLost(f"{_said(frame)} carries {size} B of payload")
    _fill(sock, room)
    return tensor


def _room(frame: stage_pb2.Frame) -> tuple[memoryview, torch.Tensor | None]:
    """Memory for the payload that ``frame`` claims, and the tensor it will be. Raises HopLost."""
    if not frame.dtype:
        return memoryview(b""), None
    dtype = DTYPES.get(frame.dtype)
    # One by one too: nothing by very much is no tensor either.
    largest = max(prod(frame.shape), *frame.shape, 0)
    if dtype is None or len(frame.shape) != 2 or largest * dtype.itemsize > PAYLOAD_LIMIT:
        raise HopLost(f"{_said(frame)} is over the limits, or no tensor of ours")
    tensor = torch.empty(*frame.shape, dtype=dtype)
    return bytes_of(tensor), tensor


def _said(frame: stage_pb2.Frame) -> str:
    return f"a frame of {frame.dtype} {list(frame.shape)}" if frame.dtype else "a frame without dtype"


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
