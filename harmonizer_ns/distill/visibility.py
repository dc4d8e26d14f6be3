# SPDX-License-Identifier: Apache-2.0
"""Which points a camera has in its frustum (occlusion is not considered)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.types import Cameras


def local_points(camera: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "n p 3"]:
    """Points in the axes of each camera (x right, y down, z forward)."""
    pose = camera.world_to_camera
    return torch.einsum("nij,pj->npi", pose[:, :3, :3], points) + pose[:, None, :3, 3]


def in_frustum(cameras: Cameras, points: Float[Tensor, "p 3"]) -> Bool[Tensor, "n p"]:
    """Whether each camera has each point in front of it and inside its image."""
    local = local_points(cameras, points)
    homogeneous = torch.einsum("nij,npj->npi", cameras.intrinsics, local)
    # Compare x with w z instead of x / z with w: no division by a depth near zero.
    x, y, z = homogeneous.unbind(-1)
    return (z > 0) & (x >= 0) & (y >= 0) & (x <= cameras.width * z) & (y <= cameras.height * z)


def seen_fraction(camera: Cameras, points: Float[Tensor, "p 3"]) -> float:
    """Fraction, in [0, 1], of the points that one camera (a batch of one) has in its frustum."""
    return in_frustum(camera, points)[0].double().mean().item()
