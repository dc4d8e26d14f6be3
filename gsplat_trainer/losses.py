# SPDX-License-Identifier: Apache-2.0
"""Training losses on images n 3 h w in [0, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.metrics import splat_loss
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import in_frustum, project


def image_loss(
    image: Float[Tensor, "n 3 h w"],
    target: Float[Tensor, "n 3 h w"],
    weight: Float[Tensor, "n 1 h w"] | None,
    ssim_lambda: float,
) -> Float[Tensor, ""]:
    """`splat_loss` of both images multiplied by the weight."""
    if weight is not None:
        image, target = image * weight, target * weight
    return splat_loss(image, target, ssim_lambda)


def depth_loss(depth: Float[Tensor, "1 1 h w"], camera: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, ""]:
    """Mean absolute difference of disparity (1 / depth) at the points that a photo shows; 0 where it shows none."""
    pixels, z = project(points[None], camera)
    inside = in_frustum(camera, points)
    if not inside.any():
        return depth.sum() * 0
    size = pixels.new_tensor([camera.width, camera.height])
    grid = (2 * pixels[inside] / size - 1)[None, None]
    drawn = F.grid_sample(depth, grid, align_corners=False)[0, 0, 0]
    disparity = torch.where(drawn > 0, 1 / drawn.clamp(min=1e-6), torch.zeros_like(drawn))
    return F.l1_loss(disparity, 1 / z[inside])
