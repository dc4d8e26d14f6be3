# SPDX-License-Identifier: Apache-2.0
"""What the large networks have in common: precision, sizes, and numbers in [-1, 1]."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import Padding, resize
from harmonizer_ns.types import Frames

logger = logging.getLogger(__name__)

MIN_TILE = 64


def default_dtype(device: torch.device | str) -> torch.dtype:
    """What networks run in when nothing else is asked for: bfloat16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def check_tile(tile: int) -> None:
    """Refuse tiles that are too small to make sense; 0 stands for none.

    Raises:
        InputError: naming the least.
    """
    if tile and tile < MIN_TILE:
        raise InputError(f"a tile has at least {MIN_TILE} pixels (0: whole frames), not {tile}")


def prepared(rgb: Float[Tensor, "n 3 h w"], padding: Padding, like: Tensor) -> Float[Tensor, "n 3 hp wp"]:
    """From [0, 1] to [-1, 1], padded, on the device and in the precision of ``like``."""
    return padding.apply(rgb.to(like.device) * 2 - 1).to(like.dtype)


def finished(images: Float[Tensor, "n 3 hp wp"], padding: Padding, like: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Back from [-1, 1] to [0, 1], clamped, without padding, float32, on the device of ``like``."""
    return (padding.undo(images).float() / 2 + 0.5).clamp(0, 1).to(like.device)


def fully_trusted(rgb: Float[Tensor, "n 3 h w"]) -> Repaired:
    """A repair by a network that makes no estimate of its own how right it is."""
    return Repaired(rgb, torch.ones_like(rgb[:, :1]))


def in_size_of(frames: Frames, output: Frames) -> Float[Tensor, "n 3 h w"]:
    """A previous output in the frames' size; the very same tensor when it has that size already."""
    return resize(output.rgb, frames.cameras.height, frames.cameras.width)


def say_licence(source: str | Path, metadata: dict[str, Any]) -> None:
    """Tell whoever loads weights what they may do with them."""
    if "licence" in metadata:
        logger.warning("%s: licence of these weights: %s", source, metadata["licence"])


def compile_mode() -> str:
    """How to compile for speed: with CUDA graphs where there is a GPU."""
    return "reduce-overhead" if torch.cuda.is_available() else "default"
