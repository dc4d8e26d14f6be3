# SPDX-License-Identifier: Apache-2.0
"""Difix's autoencoder tile by tile: large frames on small cards.

Tiles overlap and are blended linearly. Normalisation and attention then see a tile instead of the whole frame, so the
result is close to the whole frame's, not the same; a frame that fits in one tile gives exactly the same. The UNet
always sees the whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.difix_network import DifixNetwork

Window = tuple[slice, slice]
"""Rows and columns."""


class ThriftyDifix:
    """Runs a network as its own forward pass does, but the autoencoder in tiles, or with a smaller decoder.

    Args:
        network: the network.
        side: of a tile, in pixels; 0 for whole frames.
        tiny_decoder: a diffusers ``AutoencoderTiny`` that decodes in place of the network's decoder; None: that one.
    """

    def __init__(self, network: DifixNetwork, side: int = 0, tiny_decoder: Any = None) -> None:
        self.network, self.tiny_decoder = network, tiny_decoder
        self.side = side // network.multiple or None

    def __call__(
        self,
        image: Float[Tensor, "b 3 h w"],
        references: Float[Tensor, "b r 3 h w"] | None = None,
        context: Float[Tensor, "b k 3 h w"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Repair images in [-1, 1]; the result is not clamped."""
        latent = self.network.denoise(self._encoded(image), self._all_encoded(references), self._all_encoded(context))
        return self._decoded(latent, image)

    def _all_encoded(self, images: Float[Tensor, "b v 3 h w"] | None) -> Float[Tensor, "b v c hl wl"] | None:
        if images is None or not images.shape[1]:
            return None
        return torch.stack([self._encoded(image) for image in images.unbind(1)], dim=1)

    def _encoded(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        scale = self.network.multiple

        def tile(window: Window) -> Tensor:
            return self.network.encode(image[(..., *_scaled(window, scale))])[0]

        return blend(tile, image.shape[-2] // scale, image.shape[-1] // scale, self.side)

    def _decoded(self, latent: Float[Tensor, "b c hl wl"], image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The encoder runs once more on each tile: keeping what it passes on would fill the memory that tiles save."""

        def tile(window: Window) -> Tensor:
            if self.tiny_decoder is not None:
                return self.tiny_decoder.decode(latent[(..., *window)], return_dict=False)[0]
            skips = self.network.encode(image[(..., *_scaled(window, self.network.multiple))])[1]
            return self.network.decode(latent[(..., *window)], skips)

        return blend(tile, latent.shape[-2], latent.shape[-1], self.side, self.network.multiple)


def blend(
    tile: Callable[[Window], Float[Tensor, "b c th tw"]], height: int, width: int, side: int | None, scale: int = 1
) -> Float[Tensor, "b c h w"]:
    """Put a whole together from overlapping tiles.

    Args:
        tile: gives the piece of a window, ``scale`` times as large.
        height: of the whole, in the windows' pixels.
        width: likewise.
        side: most that a window may be high or wide; None: no limit.
        scale: pixels of a piece for a pixel of its window.
    """
    whole = weights = None
    for rows in cover(height, side):
        for columns in cover(width, side):
            piece = tile((rows, columns))
            if whole is None or weights is None:
                whole = piece.new_zeros(*piece.shape[:2], height * scale, width * scale)
                weights = whole.new_zeros(1, 1, *whole.shape[-2:])
            weight = _ramp(piece.shape[-2], piece)[:, None] * _ramp(piece.shape[-1], piece)
            place = (..., *_scaled((rows, columns), scale))
            whole[place] += piece * weight
            weights[place] += weight
    assert whole is not None
    assert weights is not None
    return whole / weights


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


def _scaled(window: Window, scale: int) -> Window:
    rows, columns = (slice(part.start * scale, part.stop * scale) for part in window)
    return rows, columns
