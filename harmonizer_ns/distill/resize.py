# SPDX-License-Identifier: Apache-2.0
"""Bring photos and their cameras to another image size without squashing them.

Image and camera are scaled uniformly until they cover the wanted size, then cropped around the centre.
"""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.images import resize
from harmonizer_ns.types import Cameras


def _cover_size(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int]:
    """The smallest size of about the same aspect that covers ``to_width x to_height``."""
    scale = max(to_width / width, to_height / height)
    return max(to_width, round(width * scale)), max(to_height, round(height * scale))


def cover_cameras(cameras: Cameras, width: int, height: int) -> Cameras:
    """The cameras of the same photos after ``cover_images``: scaled, and cropped by a shift of the principal point."""
    scaled = cameras.resized(*_cover_size(cameras.width, cameras.height, width, height))
    intrinsics = scaled.intrinsics.clone()
    intrinsics[:, 0, 2] -= (scaled.width - width) // 2
    intrinsics[:, 1, 2] -= (scaled.height - height) // 2
    return replace(scaled, intrinsics=intrinsics, width=width, height=height)


def cover_images(images: Float[Tensor, "n c h w"], width: int, height: int) -> Float[Tensor, "n c height width"]:
    """Resize until the image covers ``width x height``, then crop its centre."""
    scaled_width, scaled_height = _cover_size(images.shape[-1], images.shape[-2], width, height)
    scaled = resize(images, scaled_height, scaled_width)
    left, top = (scaled_width - width) // 2, (scaled_height - height) // 2
    return scaled[..., top : top + height, left : left + width]
