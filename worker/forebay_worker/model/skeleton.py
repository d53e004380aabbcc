"""A model without weights: transformers' modules on the meta device, but for what `linear` and `norm` replace.

Filled and emptied unit by unit. Built in the zygote before the fork, where no parallel operation may run; used in
workers after it. May not live here: anything about one architecture (see ``registry``), and when which unit comes or
goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import embedding
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from forebay_worker.engine import attention
from forebay_worker.engine.attention import Slice, Step
from forebay_worker.engine.kv import KvStore
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.model import block
from forebay_worker.model.linear import replace_linears
from forebay_worker.model.norm import replace_norms


class NotResident(RuntimeError):
    """Weights were asked for whose unit is not filled; the message names the unit."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one weight goes, and the empty tensor that stands there while its unit is away."""

    module: torch.nn.Module
    attribute: str
    empty: torch.nn.Parameter

    def put(self, weight: torch.nn.Parameter) -> None:
        self.module._parameters[self.attribute] = weight


class Skeleton:
    """The modules of one backbone. Units are numbered as in ``forebay_api.model``; decoder layer i is unit i + 1.

    Not thread-safe: the device thread's. Nothing here copies a weight.
    """

    def __init__(self, checkpoint: Checkpoint, model: torch.nn.Module) -> None:
        paths, dims = checkpoint.architecture, checkpoint.architecture.dims(checkpoint.config)
        self.dtype: torch.dtype = getattr(torch, checkpoint.model.dtype)
        self.device = torch.device("cpu")
        self.layers = dims.layers
        self.hidden_size = dims.hidden
        self.kv_heads = dims.kv_heads
        self.head_dim = dims.head_dim
        self.tied = dims.tied
        self.position_offset = paths.position_offset  # row of the position table that holds position 0
        self.resident: set[int] = set()
        self._tokens = model.get_submodule(paths.embedding)
        self._positions = model.get_submodule(paths.positions) if paths.positions else None
        self._layers = [block.layer(model.get_submodule(f"{paths.layers}.{index}")) for index in range(dims.layers)]
        self._norm = model.get_submodule(paths.norm)
        self._head = model.get_submodule(paths.head)
        self._rotary = model.get_submodule(paths.rotary) if paths.rotary else None
        shapes = paths.unit_shapes(dims, checkpoint.config)
        self._places = [{name: [_place(model, name, shape)] for name, shape in unit.items()} for unit in shapes]
        if dims.tied:
            matrix = f"{paths.embedding}.weight"
            self._places[-1][matrix].append(_place(model, f"{paths.head}.weight", shapes[-1][matrix]))

    @classmethod
    def build(cls, checkpoint: Checkpoint) -> Skeleton:
        """Some tens of milliseconds; no weight is allocated and no thread is started."""
        config = CONFIG_MAPPING[checkpoint.architecture.family].from_dict(dict(checkpoint.config))
        with torch.device("meta"), no_init_weights():
            auto: Any = AutoModelForCausalLM  # untyped
            # What config.json calls its dtype is neither what files hold nor what was asked for.
            dtype = getattr(torch, checkpoint.model.dtype)
            model: torch.nn.Module = auto.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
            replace_linears(model)
            replace_norms(model)
        rotary = checkpoint.architecture.rotary
        if rotary:
            # Its frequencies are in no file: computed anew, for real.
            model.set_submodule(rotary, type(model.get_submodule(rotary))(config))
        model.eval()
        return cls(checkpoint, model)

    @property
    def learned_positions(self) -> bool:
        return self._positions is not None

    def to(self, device: torch.device) -> None:
        """Compute on ``device`` from now on. Units are filled afterwards, with tensors that lie there."""
        if self.resident:
            raise ValueError(f"units {sorted(self.resident)} are filled on {self.device}")
        self.device = device
        if self._rotary is not None:
            self._rotary.to(device)

    def fill(self, unit: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put the weights of ``unit`` in place, by state-dict name. Raises ValueError naming what does not fit."""
        places = self._places[unit]
        if tensors.keys() != places.keys():
            missing, unknown = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
            raise ValueError(f"unit {unit}: tensors missing {missing}, unknown {unknown}")
        for name, tensor in tensors.items():
            wanted = places[name][0].empty.shape
            if tensor.shape != wanted or tensor.dtype != self.dtype:
                raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)}; must be {self.dtype} {list(wanted)}")
        for name, tensor in tensors.items():
            weight = torch.nn.Parameter(tensor, requires_grad=False)
            for place in places[name]:
                place.put(weight)
        self.resident.add(unit)

    def clear(self, unit: int) -> None:
        """Let go of the weights of ``unit``. Idempotent."""
        for place in (place for places in self._places[unit].values() for place in places):
            place.put(place.empty)
        self.resident.discard(unit)

    @property
    def embeds(self) -> bool:
        """Whether the token matrix is here: in the last unit when it is tied, else in the first."""
        return (self.layers + 1 if self.tied else 0) in self.resident

    def token_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [tokens, hidden] of ``ids`` [tokens]. Raises NotResident."""
        self._need(self.layers + 1 if self.tied else 0)
        return self._rows(self._tokens, ids)

    def position_rows(self, positions: torch.Tensor) -> torch.Tensor:
        """What learned positions add to the embeddings: [tokens, hidden]. Raises NotResident."""
        self._need(0)
        if self._positions is None:
            raise ValueError("this model has no learned positions")
        return self._rows(self._positions, positions + self.position_offset)

    @torch.inference_mode()
    def context(self, positions: torch.Tensor, slices: Sequence[Slice], kv: KvStore) -> Step:
        """What all layers of one step share. ``positions`` [T] of its tokens, as ``attention.positions`` gives them."""
        step = Step(positions, slices, kv)
        if self._rotary is not None:
            like = torch.empty(0, dtype=self.dtype, device=self.device)
            step.rotary = self._rotary(like, positions[None])
        return step

    @torch.inference_mode()
    def layer(self, index: int, hidden: torch.Tensor, context: Step) -> torch.Tensor:
        """Decoder layer ``index`` (unit ``index`` + 1): ``hidden`` [1, T, hidden] ▸ the same. Raises NotResident."""
        self._need(index + 1)
        return self._layers[index](hidden[0], context)[None]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final norm and output matrix: ``hidden`` [rows, hidden] ▸ float32 [rows, vocabulary]. Raises NotResident."""
        self._need(self.layers + 1)
        output: torch.Tensor = self._head(self._norm(hidden))
        return output.float()

    @torch.inference_mode()
    def _rows(self, table: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        weight = table._parameters["weight"]
        assert weight is not None
        return embedding(ids, weight)

    def _need(self, unit: int) -> None:
        if unit not in self.resident:
            raise NotResident(f"unit {unit} is not resident, only {sorted(self.resident)}")


def _place(model: torch.nn.Module, name: str, shape: tuple[int, ...]) -> _Place:
    """Raises ValueError where transformers reads the config in another way than the registry did."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    empty = module._parameters[attribute]
    if empty is None or empty.device.type != "meta":
        raise ValueError(f"{name} is no weight of the model")
    if empty.shape != shape:
        raise ValueError(f"{name}: files and config.json make it {list(shape)}, transformers {list(empty.shape)}")
    return _Place(module, attribute, empty)
