# SPDX-License-Identifier: Apache-2.0
"""Autoencoders work tile by tile: large frames on small cards.

Tiles overlap and are blended linearly. Normalisation and attention then see a tile instead of the whole frame, so the
result is close to the whole frame's, not the same; a frame that fits in one tile gives exactly the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Window = tuple[slice, slice]
"""Rows and columns."""
Step = Callable[..., Float[Tensor, "*batch ho wo"]]
"""Makes one image of one or several that show the same."""


def in_tiles(step: Step, side: int | None, scales: tuple[int, ...] = (1,), scale: int = 1) -> Step:
    """The step that works on tiles and puts its results together.

    Args:
        step: works on whole images.
        side: most pixels that a window may be high or wide; None: no limit.
        scales: pixels of each input for a pixel of a window.
        scale: the same of the output.
    """

    def part(images: tuple[Tensor, ...], window: Window) -> Float[Tensor, "*batch th tw"]:
        return step(*(image[(..., *scaled(window, of))] for image, of in zip(images, scales, strict=True)))

    def tiled(*images: Float[Tensor, "*batch hi wi"]) -> Float[Tensor, "*batch ho wo"]:
        height, width = (length // scales[0] for length in images[0].shape[-2:])
        windows = [(rows, columns) for rows in cover(height, side) for columns in cover(width, side)]
        if len(windows) == 1:
            return step(*images)
        piece = part(images, windows[0])
        total = piece.new_zeros(*piece.shape[:-2], height * scale, width * scale, dtype=torch.float32)
        weights = total.new_zeros(*total.shape[-2:])
        for window in windows:
            piece = piece if window is windows[0] else part(images, window)
            weight = _ramp(piece.shape[-2], total)[:, None] * _ramp(piece.shape[-1], total)
            place = (..., *scaled(window, scale))
            total[place] += piece * weight
            weights[place] += weight
        return (total / weights).to(piece.dtype)

    return tiled


def cover(length: int, side: int | None) -> list[slice]:
    """Windows of equal length that cover a line, each overlapping the next by a quarter of a side or more."""
    if side is None or length <= side:
        return [slice(0, length)]
    count = -(-(length - side) // max(1, side * 3 // 4)) + 1
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    return [slice(start, start + side) for start in starts]


def _ramp(length: int, like: Tensor) -> Float[Tensor, " length"]:
    """Rises from the ends to the middle; positive everywhere."""
    steps = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return torch.minimum(steps, steps.flip(0)) / length


def scaled(window: Window, scale: int) -> Window:
    """The same window of an image that is ``scale`` times as large."""
    rows, columns = (slice(part.start * scale, part.stop * scale) for part in window)
    return rows, columns
