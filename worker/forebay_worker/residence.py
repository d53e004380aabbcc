"""One backbone on this worker: its resident units, and rows of its embedding tables while those are not resident.

Owned by the device thread. May not live here: when a unit is loaded or has to leave.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch

from forebay_worker.device import Reservation
from forebay_worker.engine.text import Text
from forebay_worker.lane import Passage
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.load.stream import Landed
from forebay_worker.model.skeleton import Skeleton

ROWS_KEPT = 4096  # per table; a few MB


class Loads(Protocol):
    """What is needed of ``load.stream.Loader``."""

    @property
    def copying(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    def rows(
        self, checkpoint: Checkpoint, table: str, ids: Sequence[int], done: Callable[[torch.Tensor], None]
    ) -> None: ...
    def wanted(self, landed: Landed) -> bool: ...
    def refuse(self, landed: Landed, error: Exception) -> None: ...
    def forget(self, backbone: str, units: Iterable[int] | None) -> None: ...


Arrive = Callable[[Callable[[], None]], None]
"""Has its argument called on the device thread."""


class Table:
    """An embedding table by rows. ``whole`` says whether the matrix is resident, and ``look_up`` reads it then."""

    def __init__(
        self,
        whole: Callable[[], bool],
        look_up: Callable[[Sequence[int]], torch.Tensor],
        fetch: Callable[[Sequence[int], Callable[[torch.Tensor], None]], None],
    ) -> None:
        self._whole = whole
        self._look_up = look_up
        self._fetch = fetch
        self._known: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._asked: dict[Passage, torch.Tensor | None] = {}

    def ready(self, passage: Passage, ids: Sequence[int]) -> bool:
        """Whether ``take`` has all rows ``ids``; asks for those that are missing, once per passage."""
        if self._whole():
            return True
        if passage not in self._asked:
            here = {row: self._known[row] for row in ids if row in self._known}
            missing = [row for row in dict.fromkeys(ids) if row not in here]
            self._asked[passage] = None
            if missing:
                self._fetch(missing, lambda rows: self._arrived(passage, ids, here, missing, rows))
            else:
                self._asked[passage] = torch.stack([here[row] for row in ids])
                for row in here:
                    self._known.move_to_end(row)
        return self._asked[passage] is not None

    def take(self, passage: Passage, ids: Sequence[int]) -> torch.Tensor:
        """Rows [ids, hidden], after ``ready``."""
        rows = self._asked.pop(passage, None)
        return self._look_up(ids) if rows is None else rows

    def forget(self, passage: Passage) -> None:
        """It will not be asked about again."""
        self._asked.pop(passage, None)

    def empty(self) -> None:
        """Know no row any more: what comes under the same key may be other bytes."""
        self._known.clear()

    def _arrived(
        self,
        passage: Passage,
        ids: Sequence[int],
        here: dict[int, torch.Tensor],
        missing: Sequence[int],
        rows: torch.Tensor,
    ) -> None:
        if passage not in self._asked:
            return  # forgotten, and perhaps the table was emptied meanwhile
        here.update(zip(missing, rows, strict=True))
        self._asked[passage] = torch.stack([here[row] for row in ids])
        if self._whole():
            self._known.clear()
            return
        for row in missing:
            self._known[row] = here[row].clone()  # alone: a view would keep all rows that came with it
        while len(self._known) > ROWS_KEPT:
            self._known.popitem(last=False)


class Residence:
    """Units are resident from ``land`` to ``drop``; pipelines of this worker share them."""

    def __init__(self, checkpoint: Checkpoint, skeleton: Skeleton, text: Text, loader: Loads, arrive: Arrive) -> None:
        self.checkpoint = checkpoint
        self.skeleton = skeleton
        self.text = text
        self._loader = loader
        self._arrive = arrive
        self._reservations: dict[int, Reservation] = {}
        self.tokens = Table(lambda: skeleton.embeds, self._token_rows, self._reader("tokens", 0))
        self.positions = Table(
            lambda: 0 in skeleton.resident, self._position_rows, self._reader("positions", skeleton.position_offset)
        )

    @property
    def backbone(self) -> str:
        return self.checkpoint.model.backbone

    def land(self, unit: Landed) -> None:
        """Put a unit in place; on a GPU the compute stream waits for its copy, this thread does not."""
        if unit.unit in self._reservations or not self._loader.wanted(unit):
            unit.discard()  # here already, or let go while it was on its way to this thread
            return
        try:
            if unit.event is not None:
                torch.cuda.current_stream(self.skeleton.device).wait_event(unit.event)
            self.skeleton.fill(unit.unit, unit.tensors)
        except Exception as error:
            self._loader.refuse(unit, error)
            unit.discard()
            raise
        self._reservations[unit.unit] = unit.reservation

    def drop(self, units: Iterable[int]) -> None:
        """Let units go, resident or still to be loaded, and give their memory back."""
        gone = set(units)
        try:
            if self.skeleton.device.type == "cuda":
                torch.cuda.synchronize(self.skeleton.device)  # the copy stream may have this memory next
        finally:
            self._let_go(gone)

    def _let_go(self, gone: set[int]) -> None:
        whole = len(gone) == len(self.checkpoint.model.units)
        self._loader.forget(self.backbone, None if whole else gone)
        if whole:
            self.tokens.empty()
            self.positions.empty()
        for unit in gone:
            if unit in self._reservations:
                self.skeleton.clear(unit)
                self._reservations.pop(unit).release()

    def close(self) -> None:
        """Let everything go."""
        self.drop(unit.index for unit in self.checkpoint.model.units)

    def tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self.skeleton.device)

    def _token_rows(self, ids: Sequence[int]) -> torch.Tensor:
        return self.skeleton.token_rows(self.tensor(ids))

    def _position_rows(self, positions: Sequence[int]) -> torch.Tensor:
        return self.skeleton.position_rows(self.tensor(positions))

    def _reader(self, table: str, offset: int) -> Callable[[Sequence[int], Callable[[torch.Tensor], None]], None]:
        def read(ids: Sequence[int], done: Callable[[torch.Tensor], None]) -> None:
            wanted = [row + offset for row in ids]
            self._loader.rows(self.checkpoint, table, wanted, lambda rows: self._arrive(lambda: done(rows)))

        return read
