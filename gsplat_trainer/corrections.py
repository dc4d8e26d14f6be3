# SPDX-License-Identifier: Apache-2.0
"""What may be learned besides the splats, per photo: small pose corrections and affine colour transforms."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.types import Cameras


class PoseCorrections(torch.nn.Module):
    """A rigid motion per photo, in the camera's own axes, that begins at none.

    Args:
        count: number of photos.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.motions = torch.nn.Parameter(torch.zeros(count, 6))

    def forward(self, cameras: Cameras, photos: Int[Tensor, " n"]) -> Cameras:
        """Cameras times ``[exp([w]x) | v]`` with the photo's rotation vector ``w`` and shift ``v``."""
        motion = self.motions[photos]
        rotation = torch.linalg.matrix_exp(_cross_matrix(motion[:, 3:]))
        top = torch.cat([rotation, motion[:, :3, None]], dim=2)
        bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
        return replace(cameras, camera_to_world=cameras.camera_to_world @ torch.cat([top, bottom], dim=1))


def _cross_matrix(vector: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)


class ColorTransforms(torch.nn.Module):
    """``A c + b`` per photo, beginning at the identity; views that are no photos are shown without.

    Args:
        count: number of photos.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.offsets = torch.nn.Parameter(torch.zeros(count, 3, 4))

    def forward(self, rgb: Float[Tensor, "n 3 h w"], photos: Int[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        """Colours as the photos' exposure and white balance would show them."""
        offset = self.offsets[photos]
        return rgb + torch.einsum("nij,njhw->nihw", offset[..., :3], rgb) + offset[..., 3, None, None]
