# SPDX-License-Identifier: Apache-2.0
"""Photos as they are matched: grey, at several sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.images import resize, to_float
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import composed, pixel_grid

_COARSEST = 512
"""Photos are halved until they are no wider; all depths are tried there."""
_LEAST = 8
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class View:
    """Holds one photo at one size.

    Args:
        grey: in [0, 1], in half precision to save memory.
        mask: which pixels count; None for all.
        camera: of this size.
    """

    grey: Float[Tensor, "h w"]
    mask: Bool[Tensor, "h w"] | None
    camera: Cameras

    def to(self, device: torch.device | str) -> View:
        """Move the photo; its camera stays, since little is asked of it."""
        return View(self.grey.to(device), None if self.mask is None else self.mask.to(device), self.camera)


def levels(cameras: list[Cameras], width: int) -> int:
    """Count the sizes at which photos of at most ``width`` pixels are matched, the same for all of them."""
    wide = max(min(width, camera.width) for camera in cameras)
    return 1 + max(0, math.ceil(math.log2(wide / _COARSEST)))


def pyramid(capture: Capture, index: int, width: int, count: int) -> list[View]:
    """Make a photo's views from coarse to fine: each twice as large as the one before, the last at most ``width``."""
    photo, mask, camera = to_float(capture.photo(index))[None], capture.mask(index), capture.cameras[index].to("cpu")
    grey = (photo * photo.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    sizes = [max(_LEAST, round(min(width, camera.width) / 2**level)) for level in reversed(range(count))]
    cameras = [camera.resized(wide, max(_LEAST, round(camera.height * wide / camera.width))) for wide in sizes]
    return [_view(grey, mask, small) for small in cameras]


def _view(grey: Float[Tensor, "1 1 h w"], mask: Bool[Tensor, "1 h w"] | None, camera: Cameras) -> View:
    small = resize(grey, camera.height, camera.width)[0, 0].half()
    if mask is not None:
        mask = resize(mask[None].float(), camera.height, camera.width)[0, 0] > 0.999
    return View(small, mask, camera)


def relation(camera: Cameras, other: Cameras) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """Compute ``A`` and ``b``: pixel ``p = (x, y, 1)`` at inverse depth ``d`` is seen by the other at ``A p + b d``."""
    matrix, offset = composed(camera, other)
    return matrix[0], offset[0]


def carry(
    pixels: Float[Tensor, "h w 2"], inverse: Float[Tensor, "h w"], camera: Cameras, other: Cameras
) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]:
    """Move pixels of a camera into another one; their inverse depth there is 0 behind it, and at infinity.

    Every pixel is computed alone, so that the number of threads cannot change a bit.
    """
    matrix, offset = (part.to(pixels.device) for part in relation(camera, other))
    x, y = pixels.unbind(-1)
    u, v, w = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] + offset[i] * inverse for i in range(3))
    front = w > 1e-6
    w = torch.where(front, w, 1.0)
    return torch.stack([u / w, v / w], dim=-1), torch.where(front, inverse / w, 0.0)


def inside(pixels: Float[Tensor, "h w 2"], camera: Cameras) -> Bool[Tensor, "h w"]:
    """Tell which pixels lie in a camera's image."""
    x, y = pixels.unbind(-1)
    return (x >= 0) & (y >= 0) & (x <= camera.width) & (y <= camera.height)


def parallax(camera: Cameras, others: list[Cameras], inverse: float) -> float:
    """Measure how many pixels points move per unit of inverse depth, in the camera where they move most.

    Args:
        camera: whose image is looked at in 25 places.
        others: in which points move.
        inverse: the inverse depth about which they move.
    """
    grid = pixel_grid(5, 5) / 5 * torch.tensor([camera.width, camera.height])
    here, there = torch.full((5, 5), inverse), torch.full((5, 5), 1.01 * inverse)
    found = [0.0]
    for other in others:
        start, z = carry(grid, here, camera, other)
        seen = (z > 0) & inside(start, other)
        if seen.any():
            motion = (carry(grid, there, camera, other)[0] - start).square().sum(-1).sqrt()
            found.append(motion[seen].median().item() / (0.01 * inverse))
    return max(found)
