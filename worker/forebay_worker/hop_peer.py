"""The two ends of a hop: what a connection is for, where the receiver listens, what both owe each other.

May not live here: connections, and which of them are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from prometheus_client import Counter

from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker.frame import epoch_message

frames_total = Counter("forebay_hop_frames_total", "Frames sent to the next stage, without heartbeats")
bytes_total = Counter("forebay_hop_bytes_total", "Bytes sent to the next stage, without heartbeats")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long who waits for whom, in seconds."""

    heartbeat: float = 1.0  # from one sign of life to the next one, at most
    silence: float = 3.0  # after which the other end is gone
    form: float = 3.0  # until somebody speaks of the pipeline that a frame is for
    prepare: float = 60.0  # the same for a pipeline that is announced: its skeleton may have to be built first


@dataclass(frozen=True, slots=True)
class Key:
    """What a connection is for: the pipeline, and the stage that receives."""

    epoch: Epoch
    stage: int

    @classmethod
    def of(cls, frame: stage_pb2.Frame) -> Key:
        return cls(Epoch(frame.epoch.term, frame.epoch.counter), frame.stage)

    def heartbeat(self) -> stage_pb2.Frame:
        return stage_pb2.Frame(epoch=epoch_message(self.epoch), stage=self.stage, heartbeat=True)


@dataclass(frozen=True, slots=True)
class Peer:
    """Where the receiving worker listens: a socket's path for frames, host:port for Stage.Run. Empty = not offered."""

    unix: str
    tcp: str


Message: TypeAlias = tuple[stage_pb2.Frame, torch.Tensor | None]
Deliver: TypeAlias = Callable[[stage_pb2.Frame, torch.Tensor | None], None]
Lost: TypeAlias = Callable[[Key, str], None]


class Hop(Protocol):
    """A connection to the next stage of one pipeline. Its ``Lost`` is called once, unless we close it ourselves."""

    @property
    def frames(self) -> int:
        """Sent so far, without heartbeats."""

    @property
    def bytes(self) -> int:
        """Sent so far, without heartbeats."""

    def send(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        """By one thread. ``tensor`` is contiguous, on the CPU, and stays as it is. Raises HopLost."""

    def close(self) -> None:
        """From any thread, idempotent; the other side sees the end of the connection."""
