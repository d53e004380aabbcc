"""Frames between neighbouring stages: one connection per pipeline and receiving stage, over a unix socket where both
workers are on one node, else by Stage.Run. This is the seam; nobody outside asks which of the two it is.

    Hops ── connect ──▶ SocketHop (hop_socket) ──▶ SocketListener ─┐
                   └──▶ StreamHop (hop_stream) ──▶ StageService ───┴──▶ Inbound (hop_inbound): wanted here? ──▶ deliver

Both ends of a connection see it end within milliseconds, or by three seconds of silence, and a pipeline is a ring: one
broken connection reaches every stage.
"""

from __future__ import annotations

import asyncio

from forebay_channel import Identity
from forebay_worker.hop_inbound import Inbound
from forebay_worker.hop_peer import Deliver, Hop, Key, Lost, Pace, Peer
from forebay_worker.hop_socket import SocketHop, SocketListener, dial
from forebay_worker.hop_stream import StageService, StreamHop

__all__ = ["Hop", "Hops", "Key", "Pace", "Peer"]


class Hops:
    """Takes in neighbours, and connects to them. All methods are thread-safe and return at once."""

    def __init__(
        self,
        deliver: Deliver,
        lost: Lost,
        *,
        loop: asyncio.AbstractEventLoop,
        unix: str = "",
        identity: Identity | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Listens at ``unix`` from now on; ``service`` is to be added to the worker's gRPC server, on ``loop``.

        ``deliver`` gets each frame; ``lost`` is told when a connection of an expected pipeline ended, in or out. They
        are called on threads of ours and on the loop; neither may block, nor call back. ``identity`` is what we show to
        neighbours on other nodes. Raises OSError when ``unix`` cannot be had.
        """
        self._lost = lost
        self._loop = loop
        self._identity = identity
        self._pace = pace or Pace()
        self._inbound = Inbound(deliver, lost, self._pace)
        self._listener = SocketListener(unix, self._inbound, self._pace) if unix else None
        self.unix = unix
        self.service = StageService(self._inbound, self._pace)

    def announce(self, key: Key) -> None:
        """``key`` will be expected or refused before long: its frames wait for that."""
        self._inbound.announce(key)

    def expect(self, key: Key) -> None:
        """Frames of ``key`` are taken from now on, also those that have been waiting for this. Not after ``refuse``."""
        self._inbound.expect(key)

    def refuse(self, key: Key) -> None:
        """Frames of ``key`` are refused from now on, and its connections to us are closed."""
        self._inbound.refuse(key)

    def connect(self, key: Key, peer: Peer) -> Hop:
        """A connection to stage ``key.stage``; ``lost`` is told when it cannot be made."""
        sock = dial(peer.unix)
        if sock is not None:
            return SocketHop(key, peer.unix, sock, self._lost, self._pace)
        return StreamHop(key, peer, self._lost, self._pace, self._loop, self._identity)

    def close(self) -> None:
        """Stop listening and close what came in."""
        if self._listener is not None:
            self._listener.close()
        self._inbound.close()
