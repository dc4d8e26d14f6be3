# SPDX-License-Identifier: Apache-2.0
"""Enhancers on a GPU: how fast they are, eager and compiled, and how near to the plain graph in float32."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.bench.enhancers import EnhancersBench, make_enhancer, photos_of, plain_twin, stream_step
from harmonizer_ns.bench.frames import random_frames
from harmonizer_ns.bench.parts import GPU, Part, Scale, Size, named, timed
from harmonizer_ns.devices import choose_dtype
from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.metrics import psnr
from harmonizer_ns.types import Frames

_CPU = torch.device("cpu")
_PHOTOS = 3
"""Reference photos, for enhancers that look at so many."""


def builtin(scale: Scale, _: Path) -> Iterator[Part]:
    """The built-in enhancer with three photos and its last output, as in a stream."""
    exact: dict[Size, Tensor] = {}
    for size in (scale.large, scale.middle):
        for half in (False, True):
            for compiled in (False, True):
                dtype = torch.float16 if half else torch.float32
                enhancer = BuiltinEnhancer.from_pretrained(device=GPU, dtype=dtype, compiled=compiled)
                name = f"{named(size)}{', float16' if half else ''}{', compiled' if compiled else ''}"
                work = _beside_exact if half or compiled else _exact
                yield Part(name, 30 if compiled else 5, partial(work, exact, enhancer, size, scale))


def one_step(name: str, scale: Scale, folder: Path) -> Iterator[Part]:
    """A diffusion network with random weights: the plain graph, the one that runs, and that one compiled."""
    running: Any = make_enhancer(str(folder / f"{name}{scale.suffix}.json"), _CPU, torch.float32, EnhancersBench())
    plain: Any = plain_twin(running)
    half, sizes, exact = choose_dtype("auto", GPU), (scale.middle, scale.large), {}
    plain.to(GPU, torch.float32)
    for size in sizes:
        yield Part(f"{named(size)}, plain in float32", 15, partial(_exact, exact, plain, size, scale))
    plain.to(GPU, half)
    for size in sizes:
        yield Part(f"{named(size)}, plain", 10, partial(_beside_exact, exact, plain, size, scale))
    plain.to(_CPU)
    running.to(GPU, half)
    for size in sizes:
        yield Part(f"{named(size)}, eager", 10, partial(_beside_exact, exact, running, size, scale))
    known = inspect.signature(type(running)).parameters
    options = {option: True for option in ("cut", "compiled") if option in known}
    compiled = type(running)(running.network, **options).to(GPU, half)
    for size in sizes:
        yield Part(f"{named(size)}, compiled", 60, partial(_beside_exact, exact, compiled, size, scale))


def _of_a_stream(enhancer: Enhancer, size: Size, scale: Scale) -> dict[str, float]:
    frames = random_frames(4, size[1], size[0]).to(GPU)
    shown = [photos_of(enhancer, frames, i, _PHOTOS) for i in range(len(frames))]
    return timed(stream_step(enhancer, frames, shown), scale)


def _exact(exact: dict[Size, Tensor], enhancer: Enhancer, size: Size, scale: Scale) -> dict[str, float]:
    """Keep what the plain graph gives in float32."""
    exact[size] = _output(enhancer, size)
    return _of_a_stream(enhancer, size, scale)


def _beside_exact(exact: dict[Size, Tensor], enhancer: Enhancer, size: Size, scale: Scale) -> dict[str, float]:
    """Time, PSNR, and the RMS error over the output's own spread, as random weights give little contrast."""
    found = _of_a_stream(enhancer, size, scale)
    if size not in exact:
        return found
    output, expected = _output(enhancer, size), exact[size]
    error = ((output - expected).square().mean().sqrt() / expected.std()).item()
    return {**found, "PSNR": round(psnr(output, expected).item(), 1), "relative error": float(f"{error:.2g}")}


def _output(enhancer: Enhancer, size: Size) -> Tensor:
    """Of a frame with photos and as many last outputs as it looks at."""
    frames: Frames = random_frames(1 + _PHOTOS + enhancer.max_context, size[1], size[0]).to(GPU)
    history = tuple(frames[i] for i in range(1 + _PHOTOS, len(frames)))
    return enhancer.enhance(frames[0], Context(frames[slice(1, 1 + _PHOTOS)], history)).rgb.cpu()
