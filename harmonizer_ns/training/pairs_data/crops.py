# SPDX-License-Identifier: Apache-2.0
"""This module cuts crops of one size out of any images, at random scales, unstretched; depth and cameras follow."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.images import resize
from harmonizer_ns.training.config import DataConfig
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import reproject


@dataclass(frozen=True)
class Window:
    """Is a rectangle of an image that becomes a crop.

    Args:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
        size: height and width that it is resized to.
        flip: mirror it.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    flip: bool = False

    def cut(self, image: Float[Tensor, "n c hs ws"]) -> Float[Tensor, "n c h w"]:
        """Cut the crop of colours."""
        return self._mirrored(resize(self._part(image), *self.size)).contiguous()

    def cut_nearest(self, depth: Float[Tensor, "n 1 hs ws"]) -> Float[Tensor, "n 1 h w"]:
        """Cut the crop of depth: nearest neighbours, for a mean across an edge lies nowhere."""
        return self._mirrored(F.interpolate(self._part(depth), self.size, mode="nearest-exact")).contiguous()

    def intrinsics(self, intrinsics: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
        """Give the crop's intrinsics: ``fx s, (cx - left) s``, and so on, with ``s`` the scale of each side.

        Raises:
            ValueError: when the window mirrors; no camera does.
        """
        if self.flip:
            raise ValueError("a mirrored crop has no camera")
        moved = intrinsics.clone()
        moved[:, 0, 2] -= self.left
        moved[:, 1, 2] -= self.top
        scale = moved.new_tensor([self.size[1] / self.width, self.size[0] / self.height, 1.0])
        return moved * scale[:, None]

    def _part(self, image: Float[Tensor, "n c hs ws"]) -> Float[Tensor, "n c hw ww"]:
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def _mirrored(self, image: Tensor) -> Tensor:
        return image.flip(-1) if self.flip else image


def random_window(height: int, width: int, crop: DataConfig, flip: bool, chance: random.Random) -> Window:
    """Draw a window at a random scale and place, mirrored half of the time if ``flip``."""
    size = (crop.height, crop.width)
    covering = _covering(height, width, size)
    scale = chance.uniform(covering, max(covering, min(1.0, covering * crop.zoom)))
    rows, columns = _sides(height, width, size, scale)
    top, left = chance.randint(0, height - rows), chance.randint(0, width - columns)
    return Window(top, left, rows, columns, size, flip and chance.random() < 0.5)


def centre_window(height: int, width: int, size: tuple[int, int]) -> Window:
    """Take the largest window of a crop's shape, in the middle."""
    rows, columns = _sides(height, width, size, _covering(height, width, size))
    return Window((height - rows) // 2, (width - columns) // 2, rows, columns, size)


def _covering(height: int, width: int, size: tuple[int, int]) -> float:
    """Find the least scale at which the image is as large as the crop."""
    return max(size[0] / height, size[1] / width)


def _sides(height: int, width: int, size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Count the rows and columns of the image that the crop shows at a scale."""
    return max(1, min(height, round(size[0] / scale))), max(1, min(width, round(size[1] / scale)))


def following(window: Window, view: Frames, photo: Cameras) -> Window:
    """Find the window of a photo, as large, whose middle shows what a window of a view shows.

    With the same window for both, the view's content would be outside the photo's crop wherever the cameras differ.

    Args:
        window: of the view; not mirrored.
        view: a batch of one, with depth.
        photo: its camera, of the view's size.
    """
    pixels, z = reproject(view.depth, view.cameras, photo)
    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    seen = ((view.depth[:, 0] > 0) & (z > 0))[0, rows, columns]
    if not seen.any():
        return window
    x, y = pixels[0, rows, columns][seen].median(0).values.tolist()
    left, top = round(x - window.width / 2), round(y - window.height / 2)
    return replace(
        window,
        left=min(max(left, 0), photo.width - window.width),
        top=min(max(top, 0), photo.height - window.height),
    )


def covered(image: Float[Tensor, "3 hs ws"], height: int, width: int) -> Float[Tensor, "3 h w"]:
    """Bring a photo to another's size without stretching: its largest part of that shape, in the middle."""
    _, rows, columns = image.shape
    return centre_window(rows, columns, (height, width)).cut(image[None])[0]
