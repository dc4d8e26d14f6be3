# SPDX-License-Identifier: Apache-2.0
"""Random squares of images, drawn for each image by itself, so that it does not matter who else is in the batch."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Square(NamedTuple):
    """A part of an image: first row, first column, and its sides in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b hs ws"]:
        """What the square shows."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def random_square(height: int, width: int, side: int, chance: random.Random) -> Square:
    """A square of ``side`` pixels somewhere inside; as much of it as the image has, when that is smaller."""
    rows, columns = min(side, height), min(side, width)
    return Square(chance.randint(0, height - rows), chance.randint(0, width - columns), rows, columns)


def cut_each(images: Float[Tensor, "b c h w"], squares: list[Square]) -> Float[Tensor, "b c hs ws"]:
    """One square of each image, all of one size."""
    return torch.stack([square.cut(image) for image, square in zip(images, squares, strict=True)])
