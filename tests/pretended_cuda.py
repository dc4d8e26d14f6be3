# SPDX-License-Identifier: Apache-2.0
"""A pretended GPU: its tensors say ``cuda:0``, compute on the CPU, and keep the rules that a real one keeps.

Memory lies on it or not: a storage is marked, so that views, saved tensors and gradients know their place as well. A
dispatch mode sees every operation. What is made from marked tensors is marked, marked and plain tensors do not mix,
marked ones do not become numpy arrays, and all that a host would copy or wait for is counted, with its place. It finds
mixed devices and needless waits; it knows nothing of kernels, their speed, their order, or of several GPUs.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_linalg_check_errors"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}
"""Operations whose result, or its size, the host must know."""
MIXES = {"copy_", "_foreach_copy_", "index", "index_put", "index_put_", "_index_put_impl_", "set_", "detach", "resize_"}
"""Operations that take tensors of two devices, or whose own rules stand below."""
OURS = ("harmonizer_ns", "gsplat_trainer")

_here = threading.local()
_real = {name: getattr(Tensor, name) for name in ("to", "numpy", "__array__", "tolist", "new_tensor")}


class Counts:
    """What happened on the bus: copies up to the device and down from it, their bytes, and waits of the host.

    As in torch, a copy waits too unless it is ``non_blocking``. ``places`` says which line did how many of each.
    """

    def __init__(self) -> None:
        self.up = self.up_bytes = self.down = self.down_bytes = self.waits = 0
        self.places: Counter[str] = Counter()

    def __str__(self) -> str:
        lines = [f"{count:5d} {place}" for place, count in sorted(self.places.items(), key=lambda item: -item[1])]
        return "\n".join([f"up {self.up} ({self.up_bytes} B), down {self.down} ({self.down_bytes} B)", *lines])


_counts: list[Counts] = []


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what happens inside, in every thread."""
    counts = Counts()
    _counts.append(counts)
    try:
        yield counts
    finally:
        _counts.remove(counts)


def _note(kind: str, size: int = 0) -> None:
    for counts in _counts:
        setattr(counts, kind, getattr(counts, kind) + 1)
        if kind != "waits":
            setattr(counts, f"{kind}_bytes", getattr(counts, f"{kind}_bytes") + size)
        counts.places[f"{kind} {_place()}"] += 1


def _place() -> str:
    """The innermost line of the project, or of whatever is not torch."""
    frame, other = sys._getframe(3), ""
    while frame is not None:
        file = frame.f_code.co_filename
        at = max(file.rfind(f"/{name}/") for name in OURS)
        if at >= 0:
            return f"{file[at + 1 :]}:{frame.f_lineno}"
        if not other and "/torch/" not in file and file != __file__:
            other = f"{file.rsplit('site-packages/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return other


def is_up(tensor: Tensor) -> bool:
    """Whether a tensor lies on the device."""
    return not getattr(_here, "inside", False) and hasattr(tensor.untyped_storage(), "lies_on_the_device")


def put(tensor: Tensor) -> Tensor:
    """Say of a tensor's memory that it lies on the device."""
    tensor.untyped_storage().lies_on_the_device = True
    return tensor


@contextmanager
def inside() -> Iterator[None]:
    """What a kernel does is not looked at."""
    before, _here.inside = getattr(_here, "inside", False), True
    try:
        yield
    finally:
        _here.inside = before


def transfer(tensor: Tensor, up: bool, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Tensor:
    """Copy a tensor to the other device, with gradients; numbers change their type on the CPU, as in torch."""
    with inside():
        copy = _real["to"](tensor, dtype or tensor.dtype, copy=True)
    if up:
        put(copy)
    _note("up" if up else "down", tensor.numel() * (copy if up else tensor).element_size())
    if not non_blocking:
        _note("waits")
    if copy.requires_grad:
        copy.register_hook(lambda gradient: transfer(gradient, not up))
    return copy


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _indexed(own: Tensor, indices: list[Tensor], new: Tensor | None) -> None:
    """Count what reading or writing (``new``) at indices costs; a mask is searched, but not where one number is set."""
    if not is_up(own):
        if any(map(is_up, indices)):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        return
    if new is not None and new.dim() and not is_up(new):
        raise RuntimeError("values that are set by an index lie on the CPU, the tensor on cuda:0")
    for index in indices:
        if not is_up(index):
            _note("up", index.numel() * index.element_size())
            _note("waits")
    one_number = new is not None and new.numel() == 1 and not is_up(new)
    if any(index.dtype == torch.bool and is_up(index) for index in indices) and not one_number:
        _note("waits")


class _Device(TorchDispatchMode):
    """Watches every operation and marks what it makes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(_here, "inside", False):
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        up = any(map(is_up, tensors))
        if up:
            self._check(name, func, tensors, args, kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs, up = {**kwargs, "device": CPU}, True
        pinned, kwargs = kwargs.get("pin_memory"), {k: v for k, v in kwargs.items() if k != "pin_memory"}
        result = func(*args, **kwargs)
        if name in ("copy_", "_foreach_copy_"):  # the target stays where it is
            return result
        for tensor in _tensors(result if isinstance(result, list | tuple) else (result,)):
            if up and not tensor.is_meta:
                put(tensor)
            if pinned:
                tensor.untyped_storage().is_pinned_memory = True
        return result

    def _check(self, name: str, func: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> None:
        """Refuse mixed devices, and count copies and waits."""
        plain = [tensor for tensor in tensors if tensor.dim() and not is_up(tensor)]
        # Numbers of a backward formula are made on what C++ takes for the device.
        if plain and name not in MIXES and torch._C._current_graph_task_id() == -1:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu")
        if name == "copy_" and is_up(args[0]) != is_up(args[1]):
            to, source = args[0], args[1]
            _note("up" if is_up(to) else "down", source.numel() * (to if is_up(to) else source).element_size())
            if not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False)):
                _note("waits")
        elif name.lstrip("_").startswith("index") and isinstance(args[1], list | tuple):
            _indexed(args[0], list(_tensors(args[1])), args[2] if len(args) > 2 else None)
        elif name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            _note("waits")


# --- what Python sees of a tensor ---


def _to(self: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
    """`torch.Tensor.to`."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
    if device is None or device.type in (self.device.type, "meta"):
        where = {} if device is None or device.type != "meta" else {"device": device}
        more = {} if layout is None else {"memory_format": layout}
        return _real["to"](self, dtype=dtype or self.dtype, copy=copy, **where, **more)
    moved = transfer(self, device.type == "cuda", dtype, non_blocking)
    return moved if layout is None else moved.contiguous(memory_format=layout)


def _numpy(self: Tensor, *args: Any, real: Callable[..., Any], **kwargs: Any) -> Any:
    """`torch.Tensor.numpy`, and what numpy calls; a kernel's own backward pass may."""
    if is_up(self) and torch._C._current_graph_task_id() == -1:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
    return real(self, *args, **kwargs)


def _new_tensor(self: Tensor, data: Any, **kwargs: Any) -> Tensor:
    made = _real["new_tensor"](self, data, **kwargs)
    return made.to("cuda") if is_up(self) else made


def _pin(self: Tensor, *_: Any) -> Tensor:
    if is_up(self):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    copy = self.clone()
    copy.untyped_storage().is_pinned_memory = True
    return copy


_TENSOR = {
    "device": property(lambda self: CUDA if is_up(self) else torch._C.TensorBase.device.__get__(self)),
    "is_cuda": property(is_up),
    "is_cpu": property(lambda self: self.device.type == "cpu"),
    "get_device": lambda self: 0 if is_up(self) else -1,
    "to": _to,
    "cpu": lambda self, *_, **__: _to(self, "cpu"),
    "cuda": lambda self, *_, non_blocking=False, **__: _to(self, "cuda", non_blocking=non_blocking),
    "numpy": lambda self, *args, **kwargs: _numpy(self, *args, real=_real["numpy"], **kwargs),
    "__array__": lambda self, *args, **kwargs: _numpy(self, *args, real=_real["__array__"], **kwargs),
    "tolist": lambda self: _real["tolist"](_to(self, "cpu")),
    "new_tensor": _new_tensor,
    "pin_memory": _pin,
    "is_pinned": lambda self, *_: hasattr(self.untyped_storage(), "is_pinned_memory"),
}


def _made_up(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` or `torch.as_tensor`, which copy from the host."""

    @wraps(make)
    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None or torch.device(device).type != "cuda":
            return make(data, *args, device=device, **kwargs)
        return make(data, *args, **kwargs).to("cuda")

    return made


# --- what Python sees of CUDA ---


def _wait(*_: Any) -> None:
    _note("waits")


_STREAM = SimpleNamespace(
    **dict.fromkeys(("wait_stream", "wait_event", "record_event"), lambda *_: None),
    synchronize=_wait,
    is_capturing=lambda: False,
    device=CUDA,
)
_PROPERTIES = SimpleNamespace(name="pretended", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132)
_QUIET = (
    "_lazy_init",
    "init",
    "set_device",
    "empty_cache",
    "reset_peak_memory_stats",
    "manual_seed",
    "manual_seed_all",
)
FACTS: dict[str, Any] = {
    **dict.fromkeys(_QUIET),
    **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), True),
    **dict.fromkeys(("current_stream", "default_stream"), _STREAM),
    "device_count": 1,
    "current_device": 0,
    "is_current_stream_capturing": False,
    "get_device_name": "pretended",
    "get_device_capability": (9, 0),
    "get_device_properties": _PROPERTIES,
    "mem_get_info": (60 << 30, 80 << 30),
    "max_memory_allocated": 1 << 30,
}
"""What functions of `torch.cuda` return."""


@contextmanager
def pretend(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is a GPU while this lasts."""
    for name, value in _TENSOR.items():
        patch.setattr(Tensor, name, value)
    for name in ("tensor", "as_tensor"):
        real, made = getattr(torch, name), _made_up(getattr(torch, name))
        others = [module for key, module in sys.modules.items() if not key.startswith("torch.")]
        for module in others:  # torchmetrics has imported it by name
            if getattr(module, "__dict__", {}).get(name) is real:
                patch.setattr(module, name, made)
    for name, value in FACTS.items():
        patch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    patch.setattr(torch.accelerator, "current_stream", lambda *_: _STREAM)
    patch.setattr(torch.cuda, "synchronize", _wait)
    patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    patch.setattr(torch.cuda, "get_rng_state", lambda _=None: torch.get_rng_state())
    patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    patch.setattr(torch, "autocast", _autocast(torch.autocast))
    start = threading.Thread.run

    def run_watched(thread: threading.Thread) -> None:
        with _Device():
            start(thread)

    patch.setattr(threading.Thread, "run", run_watched)
    with _Device():
        yield


def _autocast(real: Any) -> Any:
    class Autocast(real):
        def __init__(self, device_type: str, dtype: torch.dtype | None = None, *args: Any, **kwargs: Any) -> None:
            if device_type == "cuda":
                device_type, dtype = "cpu", dtype or torch.float16
            super().__init__(device_type, dtype, *args, **kwargs)

    return Autocast
