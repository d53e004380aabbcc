"""CUDA cards made of host memory, for machines without one: what torch lets a program see of cards, and no more.

    host tensor ──copy_──▶ OnCard(host tensor inside) ──operation──▶ OnCard ──cpu(), tolist()──▶ host tensor

It shows what a CPU hides:

- Tensors of a card and of the host, or of two cards, in one operation are an error, but for copies, numbers and
  indices.
- A copy out of pinned memory on a stream of its own happens as late as CUDA allows: when somebody waits for it. A
  missing wait is then a wrong byte each time, where on a card it is one now and then.
- Memory is not empty when it is given out: it holds no number.

It has no kernels of its own and is no faster than the host; what rounds otherwise on a card, and how fast a card is, it
cannot tell. Streams other than the default one carry copies, which are all that Forebay puts there.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pynvml import CARDS, NAME, TOTAL_BYTES, uuid
from torch.utils._device import _device_constructors

HOST = torch.device("cpu")
FILLED_BYTES = 64 << 20  # larger memory is left as the system gives it: a page is taken when it is written

aten = torch.ops.aten
MIXED = {  # of tensors that may lie apart: what moves, and what is indexed
    aten._to_copy.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
_here = threading.local()
_lock = threading.RLock()
_streams: list[Stream] = []
_kept: list[Any] = []  # or torch would forget what was registered


class Stream:
    """Work in order; done when somebody waits for it. The default stream never has any: its work is done at once."""

    def __init__(self, device: object = None, **_: object) -> None:
        self._work: deque[Callable[[], object]] = deque()
        self._done = 0
        _streams.append(self)

    def put(self, work: Callable[[], object]) -> None:
        with _lock:
            self._work.append(work)

    @property
    def end(self) -> int:
        return self._done + len(self._work)

    def reach(self, place: int) -> None:
        with _lock:
            while self._done < place:
                self._work.popleft()()
                self._done += 1

    def synchronize(self) -> None:
        self.reach(self.end)

    def wait_stream(self, other: Stream) -> None:
        other.synchronize()

    def wait_event(self, event: Event) -> None:
        event.synchronize()


class Event:
    def __init__(self, *_: object, **__: object) -> None:
        self._at: tuple[Stream, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self._at = stream, stream.end

    def synchronize(self) -> None:
        if self._at:
            self._at[0].reach(self._at[1])


DEFAULT = Stream()


def current_stream(device: object = None) -> Stream:
    return getattr(_here, "stream", DEFAULT)


@contextlib.contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    before, _here.stream = current_stream(), stream
    try:
        yield
    finally:
        _here.stream = before


def synchronize(device: object = None) -> None:
    for stream in tuple(_streams):
        stream.synchronize()


class OnCard(torch.Tensor):
    """``host`` holds what lies on the card; nobody sees it but operations."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor, card: torch.device) -> OnCard:
        with torch.inference_mode(False):  # else nobody could look at a part of what was made outside of that mode
            made: OnCard = torch.Tensor._make_wrapper_subclass(
                cls,
                host.shape,
                strides=host.stride(),
                storage_offset=host.storage_offset(),
                dtype=host.dtype,
                device=card,
            )
        made.host = host
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_told(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_told(index), value)

    def detach(self) -> OnCard:
        return OnCard(self.host, self.device)  # torch's own fails in inference mode, for subclasses alone

    def __repr__(self) -> str:
        return f"OnCard({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(func, args, kwargs or {})


def _told(index: Any) -> Any:
    """Of lists torch makes tensors on the card itself, and asks the driver for that."""
    return _host_tensor(index) if isinstance(index, list) else index


def _operate(func: Any, args: Any, kwargs: Any) -> Any:
    if func is aten._fused_sdp_choice.default:
        return 0  # torch.nn.attention.SDPBackend.MATH: made of operations that are here
    if func is aten.copy_.default:
        return _copy(*args, **kwargs)
    asked = _Asked(func)
    result = func(*[asked.inside(each) for each in args], **{name: asked.inside(each) for name, each in kwargs.items()})
    return result if asked.target == HOST else _on_card(result, _card(asked.target or asked.card))


class _Asked:
    """One operation: what it is given, as it lies on the host, and where the result is to lie, if that is said."""

    def __init__(self, func: Any) -> None:
        self._func = func
        self._strict = func not in MIXED
        self.card: torch.device | None = None  # where the tensors lie
        self.target: torch.device | None = None

    def inside(self, value: Any) -> Any:
        if isinstance(value, OnCard):
            if self.card not in (None, value.device):
                raise _apart(self._func, self.card, value.device)
            self.card = value.device
            return value.host
        if isinstance(value, (list, tuple)):
            return [self.inside(each) for each in value]
        if isinstance(value, torch.device):
            self.target = value
            return HOST
        if self._strict and isinstance(value, torch.Tensor) and value.dim():
            raise _apart(self._func, HOST, "a card")
        return value


def _apart(func: object, one: object, other: object) -> RuntimeError:
    return RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {one} and {other}!")


def _card(device: torch.device | None) -> torch.device:
    """With its number: that of the thread's own card, where none was said."""
    if device is None or device.index is None:
        return torch.device("cuda", getattr(_here, "card", 0))
    return device


def _on_card(result: Any, card: torch.device) -> Any:
    if isinstance(result, torch.Tensor):
        return OnCard(result, card)
    return type(result)(_on_card(each, card) for each in result) if isinstance(result, (list, tuple)) else result


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    into, out_of = (each.host if isinstance(each, OnCard) else each for each in (target, source))
    stream = current_stream()
    queued = stream is not DEFAULT and non_blocking
    if queued and (isinstance(source, OnCard) or source.untyped_storage().data_ptr() in _pinned):
        stream.put(lambda: into.copy_(out_of))
    else:
        stream.synchronize()
        into.copy_(out_of)
    return target


_pinned: set[int] = set()
_host_empty, _host_tensor = torch.empty, torch.tensor


def _empty(*size: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
    made = _host_empty(*size, **more)
    if pin_memory:
        _pinned.add(made.untyped_storage().data_ptr())  # for good: ours are kept as long as the process lives
    return made


def _tensor(data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
    made = _host_tensor(data, **more)
    return made if device is None else made.to(device)


def _given(size: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> OnCard:
    return OnCard(_no_number(_host_empty(size, dtype=dtype)), _card(device))


def _given_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> OnCard:
    return OnCard(_no_number(torch.empty_strided(size, stride, dtype=dtype)), _card(device))


def _range(*bounds: Any, dtype: Any = None, device: Any = None, **_: Any) -> OnCard:
    return OnCard(torch.arange(*bounds, dtype=dtype), _card(device))


def _no_number(memory: torch.Tensor) -> torch.Tensor:
    if memory.nbytes > FILLED_BYTES:
        return memory
    if memory.is_floating_point():
        return memory.fill_(float("nan"))
    return memory.fill_(-1 if memory.dtype.is_signed else 255)


def install() -> None:
    """Have this process's torch find the cards. For processes that will not be told that it is emulated."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _given, "CUDA")
    library.impl("empty_strided", _given_strided, "CUDA")
    for overload in ("arange", "arange.start", "arange.start_step"):  # torch resizes what it was given for them
        library.impl(overload, _range, "CUDA")
    _kept.append(library)
    torch._C._ensureCUDADeviceGuardSet()  # the guard of a card that is not here does nothing
    for name, stand_in in {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "set_per_process_memory_fraction": lambda fraction, card: None,
        "is_available": lambda: True,
        "device_count": lambda: CARDS,
        "set_device": lambda card: setattr(_here, "card", getattr(card, "index", card)),
        "get_device_properties": lambda index: types.SimpleNamespace(name=NAME, uuid=uuid(index)),
        "mem_get_info": lambda _=None: (TOTAL_BYTES, TOTAL_BYTES),
        "empty_cache": lambda: None,
        "Stream": Stream,
        "Event": Event,
        "stream": on_stream,
        "current_stream": current_stream,
        "synchronize": synchronize,
    }.items():
        setattr(torch.cuda, name, stand_in)
    _device_constructors()  # remembers the real one: what `with torch.device(…)` is about
    torch.empty, torch.tensor = _empty, _tensor
