"""Workers in one process: real device threads, sockets and gRPC servers, and a loader that lands units when it is told
to."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import grpc
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from device import of_one_thread
from forebay_api.model import Epoch, Stage
from forebay_channel import Identity, add_port
from forebay_wire.v1 import stage_pb2_grpc
from forebay_worker.cores import Cores
from forebay_worker.device import Device
from forebay_worker.engine.request import Accepted, Ended, Event, Request, TokenOut
from forebay_worker.engine.sample import Params
from forebay_worker.engine.text import Text
from forebay_worker.formation import Formation, Phase, PipelineStatus, StagePlace
from forebay_worker.hop import Hops, Pace
from forebay_worker.load.checkpoint import Checkpoint, open_checkpoint
from forebay_worker.load.stream import Landed
from forebay_worker.model.skeleton import Skeleton
from forebay_worker.stage import Executor

PATIENCE = 30.0
MEMORY = 4 << 30
epochs = itertools.count(1)
names = itertools.count()
T = TypeVar("T")


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.002)


@cache
def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(f"file://{folder}", "auto")


@cache
def text_of(folder: Path) -> Text:
    return Text(folder)


@cache
def reference(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model


def greedy(folder: Path, prompt: Sequence[int], tokens: int) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([list(prompt)])
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        out = reference(folder).generate(
            ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
    return out[0, len(prompt) :].tolist()


def prompts(folder: Path, count: int, seed: int = 0, longest: int = 60) -> list[tuple[int, ...]]:
    """Random ones of mixed lengths."""
    draw = random.Random(seed)
    size = opened(folder).model.vocab_size
    return [tuple(draw.randrange(size) for _ in range(draw.randrange(1, longest))) for _ in range(count)]


class HeldLoader:
    """Lands units, and answers for rows, only when the test says so."""

    def __init__(self, device: Device) -> None:
        self.executor: Executor
        self._device = device
        self.copying = self.ended = False
        self.refused: list[tuple[int, str]] = []
        self.rows_held = False
        self.rows_asked: list[tuple[str, tuple[int, ...]]] = []
        self.forgotten: list[tuple[str, frozenset[int] | None]] = []
        self._waiting: list[Callable[[], None]] = []

    def land(self, checkpoint: Checkpoint, units: Iterable[int]) -> None:
        for unit in units:
            tensors = {}
            for part in checkpoint.tensors[unit]:
                with safe_open(part.file, "pt") as file:
                    tensors[part.name] = file.get_tensor(part.name).to(self._device.torch_device)
            size = checkpoint.model.units[unit].resident_bytes
            reservation = self._device.memory.reserve(checkpoint.model.backbone, size)
            self.executor.landed(Landed(checkpoint.model.backbone, unit, tensors, reservation))

    def rows(
        self, checkpoint: Checkpoint, table: str, ids: Sequence[int], done: Callable[[torch.Tensor], None]
    ) -> None:
        self.rows_asked.append((table, tuple(ids)))
        part = checkpoint.tables[table]
        with safe_open(part.file, "pt") as file:
            rows = file.get_tensor(part.name)[list(ids)].to(self._device.torch_device)
        if self.rows_held:
            self._waiting.append(lambda: done(rows))
        else:
            threading.Thread(target=done, args=(rows,)).start()

    def give_rows(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()

    def wanted(self, landed: Landed) -> bool:
        return True

    def refuse(self, landed: Landed, error: Exception) -> None:
        self.refused.append((landed.unit, str(error)))

    def forget(self, backbone: str, units: Iterable[int] | None) -> None:
        self.forgotten.append((backbone, None if units is None else frozenset(units)))


class Loop:
    """The asyncio loop of all workers here, on a thread of its own: gRPC takes several badly."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


class Node:
    """One worker. Without ``unix`` its neighbours reach it by Stage.Run, with ``identity`` in mutual TLS."""

    def __init__(
        self,
        sockets: Path,
        loop: Loop,
        pace: Pace,
        memory: int = MEMORY,
        unix: bool = True,
        identity: Identity | None = None,
    ) -> None:
        self.name = f"w{next(names)}"
        self.device = of_one_thread(memory)
        self.loader = HeldLoader(self.device)
        self.hops = Hops(
            lambda frame, tensor: self.executor.step(frame, tensor),
            lambda key, reason: self.executor.neighbour_lost(key, reason),
            loop=loop.loop,
            unix=str(sockets / self.name) if unix else "",
            identity=identity,
            pace=pace,
        )
        self.loop = loop
        self._server, self.tcp = loop.do(_serve(self.hops, identity))
        self.changes = 0
        self.executor = Executor(self.device, Cores(1).share(0), self.loader, self.hops, self._changed)
        self.loader.executor = self.executor
        self.skeletons: dict[str, Skeleton] = {}

    def _changed(self) -> None:
        self.changes += 1

    def prepare(self, folder: Path) -> None:
        checkpoint = opened(folder)
        if checkpoint.model.backbone not in self.skeletons:
            skeleton = self.skeletons[checkpoint.model.backbone] = Skeleton.build(checkpoint)
            self.executor.prepare(checkpoint, skeleton, text_of(folder))

    def land(self, folder: Path, units: Iterable[int] | None = None) -> None:
        checkpoint = opened(folder)
        self.loader.land(checkpoint, range(len(checkpoint.model.units)) if units is None else units)

    def status(self, epoch: Epoch) -> PipelineStatus | None:
        return next((each for each in self.executor.pipelines() if each.epoch == epoch), None)

    def close(self) -> None:
        self.executor.close()
        self.hops.close()
        self.loop.do(self._server.stop(grace=0.2))


async def _serve(hops: Hops, identity: Identity | None) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    stage_pb2_grpc.add_StageServicer_to_server(hops.service, server)
    port = add_port(server, "127.0.0.1:0", identity)
    await server.start()
    return server, f"127.0.0.1:{port}"


class Reader:
    """Whoever asked: collects the events of one request, and holds them to their promises."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._events: SimpleQueue[Event] = SimpleQueue()
        self.prompt_tokens: int | None = None
        self.ended: Ended | None = None
        self.events: dict[int, list[TokenOut]] = defaultdict(list)

    def sink(self, event: Event) -> None:
        self._events.put(event)

    def take(self, seconds: float = PATIENCE) -> Event:
        assert self.ended is None, "an event was awaited after the end"
        try:
            event = self._events.get(timeout=seconds)
        except Empty:
            raise AssertionError(f"{self.request.request_id} got nothing in {seconds:.0f} s") from None
        match event:
            case Accepted():
                assert self.prompt_tokens is None
                self.prompt_tokens = event.prompt_tokens
            case TokenOut():
                resumed = self.request.resumed.get(event.choice)
                before = len(resumed.tokens) if resumed else 0
                known = bool(event.finish) and event.index == before - 1  # the last one once more, which closes it
                assert known or event.index == before + len(self.events[event.choice])
                self.events[event.choice].append(event)
            case Ended():
                self.ended = event
        return event

    def wait(self) -> Reader:
        """Until the request ends."""
        while self.ended is None:
            self.take()
        return self

    def read(self, count: int) -> list[int]:
        """Until choice 0 has that many tokens."""
        while len(self.events[0]) < count:
            self.take()
        return self.tokens()[:count]

    def tokens(self, choice: int = 0) -> list[int]:
        return [event.token for event in self.events[choice]]

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.events[choice])

    def finish(self, choice: int = 0) -> str:
        assert all(not event.finish for event in self.events[choice][:-1])
        return self.events[choice][-1].finish


class Rig:
    """Makes workers and pipelines, and ends what it made."""

    def __init__(self, sockets: Path, loop: Loop) -> None:
        self._sockets = sockets
        self._loop = loop
        self._nodes: list[Node] = []
        self._requests = itertools.count()
        self.pace = Pace()

    def node(self, **rest: Any) -> Node:
        self._nodes.append(Node(self._sockets, self._loop, self.pace, **rest))
        return self._nodes[-1]

    def form(self, folder: Path, nodes: Sequence[Node], **rest: int) -> Epoch:
        """A pipeline over ``nodes``, cut into about equal segments; nothing of it has landed."""
        epoch = Epoch(1, next(epochs))
        for formation, node in zip(formations(folder, epoch, nodes, **rest), nodes, strict=True):
            node.prepare(folder)
            node.executor.form(formation)
        return epoch

    def pipeline(self, folder: Path, stages: int, unix: bool = True, **rest: int) -> tuple[list[Node], Epoch]:
        """A new one whose units have all landed."""
        nodes = [self.node(unix=unix) for _ in range(stages)]
        epoch = self.form(folder, nodes, **rest)
        for node, place in zip(nodes, cut(folder, nodes), strict=True):
            node.land(folder, place.stage.units)
        return nodes, epoch

    def ask(self, node: Node, epoch: Epoch, prompt: Sequence[int], **fields: Any) -> Reader:
        """A request at the head ``node``: greedy, past the end token, unless told otherwise."""
        fields.setdefault("ignore_eos", True)
        fields.setdefault("request_id", f"r{next(self._requests)}")
        fields.setdefault("function", "default/test")
        reader = Reader(Request(prompt=tuple(prompt), **fields))
        node.executor.submit(epoch, reader.request, reader.sink)
        return reader

    def close(self) -> None:
        for node in self._nodes:
            node.close()


def cut(folder: Path, nodes: Sequence[Node]) -> tuple[StagePlace, ...]:
    units = len(opened(folder).model.units)
    ends = [round(index * units / len(nodes)) for index in range(len(nodes) + 1)]
    return tuple(
        StagePlace(Stage(node.name, first, end - 1), node.hops.unix, node.tcp)
        for node, first, end in zip(nodes, ends, ends[1:], strict=False)
    )


def formations(
    folder: Path, epoch: Epoch, nodes: Sequence[Node], blocks: int = 256, flight: int = 1, length: int = 0
) -> list[Formation]:
    whole = Formation(
        epoch=epoch,
        backbone=opened(folder).model.backbone,
        stages=cut(folder, nodes),
        index=0,
        kv_blocks=blocks,
        block_tokens=16,
        steps_in_flight=flight,
        max_model_len=length,
    )
    return [replace(whole, index=index) for index in range(len(nodes))]


def idle(node: Node, epoch: Epoch) -> bool:
    """Nothing runs at this head, and every block is free."""
    status = node.status(epoch)
    assert status is not None
    return not status.running and not status.waiting and status.kv_blocks_free == status.kv_blocks


def formed(node: Node, epoch: Epoch, phase: Phase = Phase.FORMED) -> bool:
    status = node.status(epoch)
    return status is not None and status.phase is phase


SEEDED = Params(temperature=0.9, top_p=0.95, seed=1234)
