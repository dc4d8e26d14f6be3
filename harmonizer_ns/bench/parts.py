# SPDX-License-Identifier: Apache-2.0
"""Sections of ``harmonizer bench gpu`` are made of parts, which are measured one after the other, at a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from harmonizer_ns.bench.timing import measure

GPU = torch.device("cuda")
Size = tuple[int, int]
"""Width and height in pixels."""


class Part(NamedTuple):
    """One entry of the results.

    Args:
        name: unique in its section.
        seconds: about what it takes at full size; with less time left it is not begun.
        work: gives JSON values.
    """

    name: str
    seconds: float
    work: Callable[[], Any]


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Args:
        gaussians: in the scene.
        large: full HD.
        middle: the size that diffusion networks were trained at.
        depth: of photos in which depth is searched.
        suffix: of the names of architectures.
        side: of matrices that are multiplied.
        copied: bytes that are copied on the card.
        targets: views of a round.
        calls: of a step that are timed.
        warmup: calls before these; more than any network's context.
    """

    gaussians: int = 1_000_000
    large: Size = (1920, 1080)
    middle: Size = (1024, 576)
    depth: Size = (960, 540)
    suffix: str = ""
    side: int = 8192
    copied: int = 1 << 32
    targets: int = 16
    calls: int = 15
    warmup: int = 6


TINY = Scale(300, (96, 64), (64, 48), (48, 27), "-tiny", 32, 1 << 10, 2, 1, 1)
"""Tries every part in a moment; its figures say nothing."""


def timed(step: Callable[[], Any], scale: Scale) -> dict[str, float]:
    """Milliseconds of a step on the card, and the most memory that tensors took."""
    found = measure(step, GPU, scale.calls, scale.warmup)
    median, p95 = found.quantile(0.5), found.quantile(0.95)
    return {"ms": round(median, 3), "p95 ms": round(p95, 3), "peak MiB": round((found.peak or 0) / 2**20)}


def named(size: Size) -> str:
    """As users write sizes."""
    return f"{size[0]}x{size[1]}"
