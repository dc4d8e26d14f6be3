# SPDX-License-Identifier: Apache-2.0
"""Crops of one size out of images of any size, at random scales, without stretching; depth and cameras follow."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import resize
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import reproject


@dataclass(frozen=True)
class CropConfig:
    """Size of training crops, and how they vary.

    Args:
        height: in pixels.
        width: in pixels.
        zoom: how much closer than necessary a crop may look, at most up to the image's own resolution: the scale is
            drawn between the one at which the image just covers the crop and ``zoom`` times it.
        flip: mirror half of the items that have no cameras.

    Raises:
        InputError: on a non-positive size or a zoom below 1.
    """

    height: int
    width: int
    zoom: float = 1.5
    flip: bool = True

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or not 1 <= self.zoom < math.inf:
            raise InputError(
                f"crops need a positive size and a zoom of at least 1, got {self.width}x{self.height}, {self.zoom}"
            )


@dataclass(frozen=True)
class Window:
    """A rectangle of an image that becomes a crop.

    Args:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
        crop: size that it is resized to.
        flip: mirror it.
    """

    top: int
    left: int
    height: int
    width: int
    crop: CropConfig
    flip: bool = False

    def cut(self, image: Float[Tensor, "n c hs ws"]) -> Float[Tensor, "n c h w"]:
        """The crop of colours."""
        return self._mirrored(resize(self._part(image), self.crop.height, self.crop.width)).contiguous()

    def cut_nearest(self, depth: Float[Tensor, "n 1 hs ws"]) -> Float[Tensor, "n 1 h w"]:
        """The crop of depth: nearest neighbours, for a mean across an edge lies nowhere."""
        size = (self.crop.height, self.crop.width)
        return self._mirrored(F.interpolate(self._part(depth), size=size, mode="nearest-exact")).contiguous()

    def intrinsics(self, intrinsics: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
        """Intrinsics of the crop: ``fx s, (cx - left) s``, and so on, with ``s`` the scale of each side.

        Raises:
            ValueError: when the window mirrors; no camera does.
        """
        if self.flip:
            raise ValueError("a mirrored crop has no camera")
        moved = intrinsics.clone()
        moved[:, 0, 2] -= self.left
        moved[:, 1, 2] -= self.top
        scale = moved.new_tensor([self.crop.width / self.width, self.crop.height / self.height, 1.0])
        return moved * scale[:, None]

    def _part(self, image: Float[Tensor, "n c hs ws"]) -> Float[Tensor, "n c hw ww"]:
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def _mirrored(self, image: Tensor) -> Tensor:
        return image.flip(-1) if self.flip else image


def random_window(height: int, width: int, crop: CropConfig, flip: bool, chance: random.Random) -> Window:
    """A window at a random scale and place, mirrored half of the time if ``flip``."""
    covering = _covering(height, width, crop)
    scale = chance.uniform(covering, max(covering, min(1.0, covering * crop.zoom)))
    rows, columns = _sides(height, width, crop, scale)
    top, left = chance.randint(0, height - rows), chance.randint(0, width - columns)
    return Window(top, left, rows, columns, crop, flip and chance.random() < 0.5)


def centre_window(height: int, width: int, crop: CropConfig) -> Window:
    """The largest window of the crop's shape, in the middle."""
    rows, columns = _sides(height, width, crop, _covering(height, width, crop))
    return Window((height - rows) // 2, (width - columns) // 2, rows, columns, crop)


def _covering(height: int, width: int, crop: CropConfig) -> float:
    """The least scale at which the image is as large as the crop."""
    return max(crop.height / height, crop.width / width)


def _sides(height: int, width: int, crop: CropConfig, scale: float) -> tuple[int, int]:
    """Rows and columns of the image that the crop shows at a scale."""
    return max(1, min(height, round(crop.height / scale))), max(1, min(width, round(crop.width / scale)))


def following(window: Window, view: Frames, photo: Cameras) -> Window:
    """The window of a photo, as large, whose middle shows what a window of a view shows.

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
    """A photo brought to another photo's size without stretching: its largest part of that shape, in the middle."""
    if tuple(image.shape[-2:]) == (height, width):
        return image
    _, rows, columns = image.shape
    return centre_window(rows, columns, CropConfig(height, width)).cut(image[None])[0]
