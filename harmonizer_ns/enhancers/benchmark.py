# SPDX-License-Identifier: Apache-2.0
"""How fast enhancers are, and how much memory they take.

Every enhancer runs as a stream does: one frame at a time, with its own last outputs when it looks at them and with
reference photos when it takes them. Speed does not depend on what weights say, so an architecture (``configs/*.json``)
with random ones will do.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.enhancers.reading import read_json
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import Cameras, Frames

Precision = Literal["fp32", "bf16", "fp16"]
_LINUX_RESET = Path("/proc/self/clear_refs")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EnhancersBench:
    """Time enhancers on random frames: milliseconds per frame (median, 95th percentile), frames per second, memory."""

    enhancers: tuple[str, ...] = ("builtin",)
    """Names, checkpoint folders, or architectures (.json), which get random weights."""
    sizes: tuple[str, ...] = ("480x270",)
    """Frame sizes, WIDTHxHEIGHT."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Arithmetic; the built-in enhancer always computes in fp32."""
    device: str = "auto"
    """Where to run; auto takes a GPU when there is one."""
    references: int = 1
    """Reference photos per frame, for enhancers that take them."""
    frames: int = 20
    """Frames that are timed."""
    warmup: int = 5
    """Frames before these."""
    compile: bool = False
    """Compile what can be compiled, with CUDA graphs on a GPU."""
    naive: bool | None = None
    """Also time the graph as released (no cuts, not compiled) on the same weights; by default on a GPU."""


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Args:
        milliseconds: per frame, sorted.
        peak: bytes at most; on a GPU of tensors, on a CPU of the whole process; None where it cannot be told.
    """

    milliseconds: tuple[float, ...]
    peak: int | None

    @property
    def median(self) -> float:
        """Milliseconds that half of the frames take at most."""
        return self._quantile(0.5)

    @property
    def p95(self) -> float:
        """Milliseconds that 95% of the frames take at most."""
        return self._quantile(0.95)

    def _quantile(self, share: float) -> float:
        return float(torch.tensor(self.milliseconds).quantile(share))


def run(bench: EnhancersBench) -> None:
    """Print one line for each enhancer, size and precision."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if bench.device == "auto" else bench.device)
    naive = device.type == "cuda" if bench.naive is None else bench.naive
    print(f"{_device_name(device)}, torch {torch.__version__}, {bench.references} reference(s), {bench.frames} frames")
    print(f"{'enhancer':34s} {'size':>10s} {'':6s} {'median':>10s} {'p95':>10s} {'fps':>7s} {'peak':>10s}")
    for name in bench.enhancers:
        for precision in bench.precisions:
            enhancer = make_enhancer(name, device, DTYPES[precision], bench.compile)
            for size in bench.sizes:
                _print_line(name, size, precision, measure(_stream(enhancer, size, bench, device), bench, device))
                plain = plain_twin(enhancer, device, DTYPES[precision]) if naive else None
                if plain is not None:
                    measured = measure(_stream(plain, size, bench, device), bench, device)
                    _print_line(f"{name} (plain)", size, precision, measured)


def make_enhancer(name: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> Enhancer:
    """The enhancer of that name, of that folder, or of that architecture with random weights from seed 0.

    Raises:
        InputError: when there is none.
    """
    if not name.endswith(".json"):
        return load_enhancer(name, device)
    config = read_json(Path(name))
    torch.manual_seed(0)
    if config.get("architecture") == "cosmos":
        from harmonizer_ns.enhancers.cosmos import CosmosEnhancer
        from harmonizer_ns.enhancers.cosmos_network import CosmosNetwork

        return CosmosEnhancer(CosmosNetwork.from_config(config), cut=True, compiled=compiled).to(device, dtype)
    if config.get("architecture") == "difix":
        from harmonizer_ns.enhancers.difix import DifixEnhancer
        from harmonizer_ns.enhancers.difix_network import DifixNetwork

        return DifixEnhancer(DifixNetwork.from_config(config), compiled=compiled).to(device, dtype)
    raise InputError(f"{name} is of the unknown architecture {config.get('architecture')!r}")


def plain_twin(enhancer: Enhancer, device: torch.device, dtype: torch.dtype) -> Enhancer | None:
    """The same weights in the plain graph; None for enhancers that know no other."""
    from harmonizer_ns.enhancers.cosmos import CosmosEnhancer
    from harmonizer_ns.enhancers.difix import DifixEnhancer

    if isinstance(enhancer, CosmosEnhancer):
        from harmonizer_ns.enhancers.cosmos_plain import PlainCosmosNetwork

        return CosmosEnhancer(PlainCosmosNetwork.of(enhancer.network)).to(device, dtype)
    if isinstance(enhancer, DifixEnhancer):
        twin = DifixEnhancer(copy.deepcopy(enhancer.network))
        twin.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return twin
    return None


def measure(step: Callable[[], Any], bench: EnhancersBench, device: torch.device) -> Measurement:
    """Time ``step`` one call at a time, after some calls to warm up."""
    for _ in range(bench.warmup):
        step()
    _reset_peak(device)
    milliseconds = []
    for _ in range(bench.frames):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return Measurement(tuple(sorted(milliseconds)), _peak(device))


def _stream(enhancer: Enhancer, size: str, bench: EnhancersBench, device: torch.device) -> Callable[[], Frames]:
    """One frame of a stream; the last outputs are kept between calls."""
    width, height = _size(size)
    photos = random_frames(min(bench.references, enhancer.max_references), height, width, seed=1).to(device)
    frames = random_frames(1, height, width, seed=0).to(device)
    history: deque[Frames] = deque(maxlen=getattr(enhancer, "max_context", 0))

    def step() -> Frames:
        references = (photos,) if len(photos) else ()
        repaired = enhancer.enhance(frames, Context(references=references, history=tuple(history)))
        output = Frames(repaired.rgb, frames.alpha, frames.depth, frames.cameras)
        history.appendleft(output)
        return output

    return step


def random_frames(count: int, height: int, width: int, seed: int) -> Frames:
    """Noise on a plane at depth 3, seen by cameras side by side."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, 0, 3] = 0.1 * torch.arange(seed, seed + count)
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(count, 1, 1)
    return Frames(
        torch.rand(count, 3, height, width, generator=generator),
        torch.ones(count, 1, height, width),
        torch.full((count, 1, height, width), 3.0),
        Cameras(pose, intrinsics, width, height),
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InputError(f"a size is WIDTHxHEIGHT, for example 1024x576, not {text!r}")
    return int(width), int(height)


def _print_line(name: str, size: str, precision: str, measured: Measurement) -> None:
    peak = "-" if measured.peak is None else f"{measured.peak / 2**20:.0f} MiB"
    print(
        f"{name:34s} {size:>10s} {precision:6s} {measured.median:7.1f} ms {measured.p95:7.1f} ms "
        f"{1e3 / measured.median:7.1f} {peak:>10s}",
        flush=True,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} thread(s)"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _LINUX_RESET.exists():
        _LINUX_RESET.write_text("5")  # the process's own high-water mark


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _LINUX_RESET.exists():
        return None
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
