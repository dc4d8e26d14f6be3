# SPDX-License-Identifier: Apache-2.0
"""How fast enhancers are, and how much memory they take.

Every enhancer runs as a stream does: one frame at a time, with its own last outputs when it looks at them and with
reference photos, new ones for every frame, when it takes them. Speed does not depend on what weights say, so an
architecture (``configs/*.json``) with random ones will do. What a tiny decoder loses does depend on weights and
pictures.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.bench.frames import parse_size, sample_frames
from harmonizer_ns.bench.timing import Measurement, device_name, measure
from harmonizer_ns.devices import Device, Precision, choose_device, choose_dtype
from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.enhancers.specs import ARCHITECTURES, load_enhancer, options_of, resolve
from harmonizer_ns.enhancers.stream import EnhancerStream
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json
from harmonizer_ns.metrics import psnr
from harmonizer_ns.types import Frames


@dataclass(frozen=True)
class EnhancersBench:
    """Time enhancers: milliseconds per frame (median, 95th percentile), frames per second, memory."""

    enhancers: tuple[str, ...] = ("builtin",)
    """Names, checkpoint folders, or architectures (.json), which get random weights."""
    sizes: tuple[str, ...] = ("480x270",)
    """Frame sizes, WIDTHxHEIGHT."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Number types, for enhancers with weights."""
    device: Device = "auto"
    """Where to run; auto takes a GPU when there is one."""
    references: int = 1
    """Reference photos per frame, for enhancers that take them."""
    frames: int = 20
    """Frames that are timed."""
    warmup: int = 5
    """Frames before these."""
    compile: bool = False
    """Compile what can be compiled, with CUDA graphs on a GPU."""
    tile: int = 0
    """Side in pixels of the tiles in which autoencoders work; 0: whole frames."""
    images: Path | None = None
    """Folder whose images are the frames (the first 8, scaled and cropped), each with the next one as its reference
    photo; by default noise, which is as good for speed."""
    tiny_decoder: str | None = None
    """Also time Difix with this AutoencoderTiny (a folder or a Hub repository), and tell its PSNR against the full
    decoder; wants --images."""
    naive: bool | None = None
    """Also time the graph as released (no cuts, not compiled) on the same weights; by default on a GPU."""


def run(bench: EnhancersBench) -> None:
    """Print one line for each enhancer, size and precision.

    Raises:
        InputError: on options that make no sense.
    """
    device = torch.device(choose_device(bench.device))
    if bench.tiny_decoder and bench.images is None:
        raise InputError("--tiny-decoder wants --images: what a decoder loses cannot be told from noise")
    sizes = {size: parse_size(size) for size in bench.sizes}
    print(f"{device_name(device)}, torch {torch.__version__}, {bench.references} reference(s), {bench.frames} frames")
    print(
        f"{'enhancer':34s} {'size':>10s} {'':6s} {'median':>10s} {'p95':>10s} {'fps':>7s} {'peak':>10s}"
        f" {'PSNR against its first line':>28s}"
    )
    for name in bench.enhancers:
        for precision in bench.precisions:
            first: dict[str, Tensor] = {}
            for label, enhancer in contenders(name, device, choose_dtype(precision, device), bench):
                for size, (width, height) in sizes.items():
                    frames = sample_frames(bench.images, height, width).to(device)
                    photos = [photos_of(enhancer, frames, i, bench.references) for i in range(len(frames))]
                    measured = measure(stream_step(enhancer, frames, photos), device, bench.frames, bench.warmup)
                    alone = zip(frames, photos, strict=True)
                    output = torch.cat([enhancer.enhance(one, Context((shown,))).rgb.cpu() for one, shown in alone])
                    same = None if size not in first else psnr(output, first[size]).mean().item()
                    first.setdefault(size, output)
                    _print_line(label, size, precision, measured, same)


def contenders(
    name: str, device: torch.device, dtype: torch.dtype, bench: EnhancersBench
) -> Iterator[tuple[str, Enhancer]]:
    """An enhancer and what it is compared with, on the same weights; only one at a time is on a GPU."""
    enhancer = make_enhancer(name, device, dtype, bench)
    yield name, enhancer
    if device.type == "cuda" if bench.naive is None else bench.naive:
        yield from _beside(enhancer, plain_twin(enhancer), f"{name} (plain)", device, dtype)
    if bench.tiny_decoder:
        yield from _beside(enhancer, tiny_twin(enhancer, bench), f"{name} (tiny decoder)", device, dtype)


def _beside(
    enhancer: Any, twin: Any, label: str, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Enhancer]]:
    """The twin, while the enhancer waits on the CPU."""
    if twin is not None:
        enhancer.to("cpu")
        yield label, twin.to(device, dtype)
        twin.to("cpu")


def make_enhancer(name: str, device: torch.device, dtype: torch.dtype, bench: EnhancersBench) -> Enhancer:
    """The enhancer of that name, of that folder, or of that architecture with random weights from seed 0.

    Raises:
        InputError: when there is none.
    """
    options: dict[str, Any] = {"compiled": bench.compile, "tile": bench.tile}
    if not name.endswith(".json"):
        return load_enhancer(name, device, **_known({"dtype": dtype, **options}, options_of(name)))
    config = read_json(Path(name))
    architecture = ARCHITECTURES.get(config.get("architecture", ""))
    if architecture is None:
        raise InputError(f"{name} is of the unknown architecture {config.get('architecture')!r}")
    torch.manual_seed(0)
    network, kind = resolve(architecture.network).from_config(config), resolve(architecture.enhancer)
    return kind(network, **_known({"cut": True, **options}, inspect.signature(kind).parameters)).to(device, dtype)


def _known(options: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in known}


def plain_twin(enhancer: Enhancer) -> Enhancer | None:
    """The same weights in the plain graph; None for enhancers that know no other."""
    from harmonizer_ns.enhancers.cosmos import CosmosEnhancer
    from harmonizer_ns.enhancers.difix import DifixEnhancer

    if isinstance(enhancer, CosmosEnhancer):
        from harmonizer_ns.enhancers.cosmos.formats import PlainCosmosNetwork

        return CosmosEnhancer(PlainCosmosNetwork.of(enhancer.network))
    if isinstance(enhancer, DifixEnhancer):
        twin = DifixEnhancer(copy.deepcopy(enhancer.network))
        twin.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return twin
    return None


def tiny_twin(enhancer: Enhancer, bench: EnhancersBench) -> Enhancer | None:
    """The same weights with the tiny decoder; None for enhancers that cannot have one."""
    from harmonizer_ns.enhancers.difix import DifixEnhancer
    from harmonizer_ns.enhancers.difix.tiled import read_tiny_decoder

    if not isinstance(enhancer, DifixEnhancer) or bench.tiny_decoder is None:
        return None
    tiny = read_tiny_decoder(bench.tiny_decoder)
    return DifixEnhancer(enhancer.network, tile=bench.tile, tiny_decoder=tiny, compiled=bench.compile)


def stream_step(enhancer: Enhancer, frames: Frames, photos: list[Frames | None]) -> Callable[[], Repaired]:
    """One frame of a stream; the last outputs are kept between calls."""
    turns = cycle(list(zip(frames, photos, strict=True)))
    stream = EnhancerStream(enhancer, enhancer.max_context, steadies=False)

    def step() -> Repaired:
        frame, shown = next(turns)
        fresh = None if shown is None else replace(shown, rgb=shown.rgb.clone())  # or its latents would be kept
        return stream.enhance(frame, fresh)

    return step


def photos_of(enhancer: Enhancer, frames: Frames, index: int, references: int) -> Frames | None:
    """The frames that follow a frame, as its reference photos."""
    count = min(references, enhancer.max_references)
    return frames[[(index + 1 + i) % len(frames) for i in range(count)]] if count else None


def _print_line(name: str, size: str, precision: str, measured: Measurement, same: float | None) -> None:
    median, p95 = measured.quantile(0.5), measured.quantile(0.95)
    agreement = "" if same is None else f"{same:25.1f} dB"
    peak = "-" if measured.peak is None else f"{measured.peak / 2**20:.0f} MiB"
    print(
        f"{name:34s} {size:>10s} {precision:6s} {median:7.1f} ms {p95:7.1f} ms "
        f"{1e3 / median:7.1f} {peak:>10s} {agreement}".rstrip(),
        flush=True,
    )
