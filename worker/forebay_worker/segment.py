"""One stage of one pipeline as it runs on this worker: what a step does here, unit by unit, and where it goes next.

    head  ── tokens, or embedded when the matrix is tied ──▶  stage 0  ── hidden ──▶  stage 1  ── hidden ──▶  head
                                                                                                       draws the tokens

May not live here: threads, and what several pipelines share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from prometheus_client import Counter

from forebay_wire.v1 import stage_pb2
from forebay_worker.device import Reservation
from forebay_worker.engine import attention
from forebay_worker.engine.batch import Slice
from forebay_worker.engine.head import Head
from forebay_worker.engine.kv import KvStore
from forebay_worker.formation import PIPELINE, Formation, Happening, Phase, PipelineStatus
from forebay_worker.frame import NAMES, HopLost, epoch_message
from forebay_worker.hop import Hop, Key
from forebay_worker.lane import Lane, Operation, Passage
from forebay_worker.residence import Residence

steps_total = Counter("forebay_steps_total", "Steps that went through a stage here")
tokens_total = Counter("forebay_tokens_computed_total", "Tokens that went through a stage here")


@dataclass(frozen=True, slots=True)
class Tally:
    """What has been done, for counting rather than timing."""

    steps: int = 0
    tokens: int = 0
    parked: int = 0  # steps that had to wait for weights or rows
    preemptions: int = 0
    prefix_hits: int = 0  # tokens
    cancelled: int = 0
    hop_frames: int = 0
    hop_bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


class Embed:
    """Token ids to hidden states. Nothing is left to do where the stage before, or the head, has embedded them."""

    def __init__(self, residence: Residence) -> None:
        self._residence = residence

    def ready(self, passage: Passage) -> bool:
        return passage.hidden is not None or self._residence.tokens.ready(passage, passage.tokens)

    def run(self, passage: Passage) -> None:
        if passage.hidden is None:
            passage.hidden = self._residence.tokens.take(passage, passage.tokens).unsqueeze(0)


class AddPositions:
    """Learned positions, at stage 0 of the models that have them."""

    def __init__(self, residence: Residence) -> None:
        self._residence = residence

    def ready(self, passage: Passage) -> bool:
        return self._residence.positions.ready(passage, _positions(passage))

    def run(self, passage: Passage) -> None:
        assert passage.hidden is not None
        passage.hidden = passage.hidden + self._residence.positions.take(passage, _positions(passage))


class Layer:
    def __init__(self, unit: int, residence: Residence, kv: KvStore) -> None:
        self._unit = unit
        self._residence = residence
        self._kv = kv

    def ready(self, passage: Passage) -> bool:
        return self._unit in self._residence.skeleton.resident

    def run(self, passage: Passage) -> None:
        assert passage.hidden is not None
        skeleton = self._residence.skeleton
        if passage.context is None:
            places = attention.positions(passage.slices, skeleton.device)
            passage.context = skeleton.context(places, passage.slices, self._kv)
        passage.hidden = skeleton.layer(self._unit - 1, passage.hidden, passage.context)


class Judge:
    """The head unit: logits where a token is to be drawn. A step that draws none needs no weights here."""

    def __init__(self, unit: int, residence: Residence) -> None:
        self._unit = unit
        self._residence = residence

    def ready(self, passage: Passage) -> bool:
        return not passage.drawn or self._unit in self._residence.skeleton.resident

    def run(self, passage: Passage) -> None:
        assert passage.hidden is not None
        if passage.drawn:
            rows = passage.hidden[0, self._residence.tensor(passage.drawn)]
            passage.logits = self._residence.skeleton.logits(rows)


def _positions(passage: Passage) -> list[int]:
    return [place for part in passage.slices for place in range(part.start, part.start + part.length)]


def kv_layers(formation: Formation, residence: Residence) -> range:
    """Decoder layers, counted from 0, whose keys and values this stage keeps."""
    return range(max(formation.mine.first, 1) - 1, min(formation.mine.last, residence.skeleton.layers))


def kv_bytes(formation: Formation, residence: Residence) -> int:
    tokens = formation.kv_blocks * formation.block_tokens
    per_token = residence.checkpoint.model.kv_bytes_per_token_per_layer
    return len(kv_layers(formation, residence)) * tokens * per_token


class Segment:
    """``hop`` leads to the next stage and is None in a pipeline of one; ``reservation`` covers the KV."""

    def __init__(
        self, formation: Formation, residence: Residence, reservation: Reservation, hop: Hop | None, head: Head | None
    ) -> None:
        self.formation = formation
        self.residence = residence
        self.head = head
        self.phase = Phase.FORMED
        self.reason = ""
        self.steps = 0  # that went through
        self._tokens = 0
        self._parked_before = 0
        self._reservation = reservation
        self._hop = hop
        skeleton = residence.skeleton
        kv = KvStore(
            kv_layers(formation, residence),
            formation.kv_blocks,
            formation.block_tokens,
            skeleton.kv_heads,
            skeleton.head_dim,
            skeleton.dtype,
            skeleton.device,
        )
        main = Lane(self._operations(kv), self._leave)
        self._lanes: tuple[Lane, ...] = (main,)
        if head is not None and hop is not None:
            self._lanes = (Lane([Embed(residence)] if skeleton.tied else [], self._enter), main)

    @property
    def key(self) -> Key:
        return Key(self.formation.epoch, self.formation.index)

    @property
    def live(self) -> bool:
        return self.phase in (Phase.FORMED, Phase.DRAINING)

    @property
    def idle(self) -> bool:
        """No step is here, and nobody waits for one."""
        return not any(map(len, self._lanes)) and (self.head is None or self.head.empty)

    @property
    def most_in_flight(self) -> int:
        """Steps of this pipeline that were on their way at once, at most; only its head knows."""
        return self.head.batch.most_flying if self.head else 0

    @property
    def tally(self) -> Tally:
        tally = Tally(self.steps, self._tokens, self._parked_before + sum(lane.parked for lane in self._lanes))
        if self.head is not None:
            batch = self.head.batch
            tally += Tally(preemptions=batch.preemptions, prefix_hits=batch.hits, cancelled=self.head.cancelled)
        if self._hop is not None:
            tally += Tally(hop_frames=self._hop.frames, hop_bytes=self._hop.bytes)
        return tally

    def turn(self) -> bool:
        """Run one operation; False when there is none that can run. Raises what computing and sending raise."""
        return any(lane.turn() for lane in self._lanes)

    def arrive(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        """A step from the stage before. Raises HopLost when it does not fit this pipeline."""
        tokens = sum(part.length for part in frame.slices)
        if tensor is None and (self.formation.index or len(frame.tokens) != tokens):
            raise HopLost(f"step {frame.step} has {len(frame.tokens)} token ids and no hidden states")
        if tensor is not None and list(tensor.shape) != [tokens, self.residence.skeleton.hidden_size]:
            raise HopLost(f"step {frame.step} of {tokens} tokens has hidden states {list(tensor.shape)}")
        hidden = None if tensor is None else tensor.to(self.residence.skeleton.device).unsqueeze(0)
        drawn = () if self.head is None else self.head.drawn(frame.step)
        self._lanes[-1].add(Passage(frame.step, frame.slices, tuple(frame.tokens), hidden, drawn))

    def pump(self) -> None:
        """Begin whatever the head wants computed next."""
        while self.live and self.head is not None and (step := self.head.next()) is not None:
            drawn = () if self._hop else self.head.drawn(step.number)
            self._lanes[0].add(Passage(step.number, step.slices, step.tokens, None, drawn))

    def happen(self, event: Happening) -> None:
        """Step through the table; a draining head that has nothing left is drained."""
        self.phase = PIPELINE.next(self.phase, event)
        self.settle()

    def settle(self) -> None:
        if self.phase is Phase.DRAINING and self.head is not None and self.head.empty:
            self.phase = PIPELINE.next(self.phase, Happening.EMPTY)

    def close(self, reason: str) -> None:
        """End its requests and connections, and give its memory back. Idempotent."""
        if self.head is not None:
            self.head.lose(reason)
        self._parked_before += sum(lane.parked for lane in self._lanes)
        for passage in (passage for lane in self._lanes for passage in lane):
            self.residence.tokens.forget(passage)
            self.residence.positions.forget(passage)
        self._lanes = ()  # and with their operations the keys and values
        if self._hop is not None:
            self._hop.close()
        self._reservation.release()

    def status(self) -> PipelineStatus:
        head = self.head if self.live else None
        return PipelineStatus(
            epoch=self.formation.epoch,
            backbone=self.formation.backbone,
            stages=tuple(place.stage for place in self.formation.stages),
            index=self.formation.index,
            phase=self.phase,
            head=self.formation.head,
            running=head.running if head else 0,
            waiting=head.waiting if head else 0,
            kv_blocks=self.formation.kv_blocks,
            kv_blocks_free=head.blocks_free if head else self.formation.kv_blocks,
            block_tokens=self.formation.block_tokens,
            kv_bytes=self._reservation.nbytes if self._lanes else 0,
            reason=self.reason,
        )

    def _operations(self, kv: KvStore) -> list[Operation]:
        mine, residence = self.formation.mine, self.residence
        last = residence.skeleton.layers + 1
        operations: list[Operation] = []
        if not self.formation.index:
            operations.append(Embed(residence))
            if residence.skeleton.learned_positions:
                operations.append(AddPositions(residence))
        operations += [Layer(layer + 1, residence, kv) for layer in kv.layers]
        if mine.last == last:
            operations.append(Judge(last, residence))
        return operations

    def _enter(self, passage: Passage) -> None:
        """From the head to stage 0."""
        tokens = passage.tokens if passage.hidden is None else ()
        self._send(passage, tokens)

    def _leave(self, passage: Passage) -> None:
        tokens = sum(part.length for part in passage.slices)
        self.steps += 1
        self._tokens += tokens
        steps_total.inc()
        tokens_total.inc(tokens)
        if self.head is not None:
            self.head.came_back(passage.number, passage.logits)
            self.settle()
            self.pump()
        else:
            self._send(passage, ())

    def _send(self, passage: Passage, tokens: Sequence[int]) -> None:
        assert self._hop is not None
        frame = stage_pb2.Frame(
            epoch=epoch_message(self.formation.epoch),
            stage=self.formation.after,
            step=passage.number,
            slices=[_message(part) for part in passage.slices],
            tokens=tokens,
        )
        tensor = None
        if passage.hidden is not None:
            tensor = passage.hidden[0].contiguous().cpu()
            frame.dtype = NAMES[tensor.dtype]
            frame.shape.extend(tensor.shape)
        self._hop.send(frame, tensor)


def _message(part: Slice | stage_pb2.Slice) -> stage_pb2.Slice:
    if isinstance(part, stage_pb2.Slice):
        return part
    return stage_pb2.Slice(sequence=part.sequence.number, start=part.start, length=part.length, blocks=part.blocks)
