# SPDX-License-Identifier: Apache-2.0
"""Structural similarity, and the loss of Gaussian splatting that is made from it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
"""Side of the window in pixels."""


def splat_loss(
    image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], ssim_weight: float = 0.2
) -> Float[Tensor, ""]:
    """``(1 - w) L1 + w (1 - SSIM)``, equation 7 of Kerbl et al. 2023; L1 alone for images smaller than the window."""
    l1 = F.l1_loss(image, target)
    if ssim_weight == 0 or min(image.shape[-2:]) < WINDOW:
        return l1
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim_map(image, target).mean())


def ssim_map(image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h-10 w-10"]:
    """Structural similarity of each pixel (Wang et al. 2004, equation 13), differentiable.

    ``(2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2))`` with moments under an 11x11 Gaussian
    window of sigma 1.5, ``C1 = 0.01^2`` and ``C2 = 0.03^2``. Windows that leave the image are not evaluated.

    Raises:
        ValueError: on differing shapes or an image smaller than the window.
    """
    if image.shape != target.shape or image.ndim != 4 or min(image.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs two images n 3 h w of one shape and at least {WINDOW}x{WINDOW} pixels, "
            f"got {tuple(image.shape)} and {tuple(target.shape)}"
        )
    moments = torch.cat([image, target, image * image, target * target, image * target], dim=1)
    mx, my, xx, yy, xy = _gaussian_blur(moments).chunk(5, dim=1)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    structure = (2 * (xy - mx * my) + c2) / ((xx - mx * mx) + (yy - my * my) + c2)
    return luminance * structure


def _gaussian_blur(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h-10 w-10"]:
    """Separable 11-tap Gaussian of sigma 1.5 without padding."""
    offsets = torch.arange(11, device=image.device, dtype=image.dtype) - 5
    taps = torch.exp(-offsets.square() / (2 * 1.5**2))
    taps = taps / taps.sum()
    channels = image.shape[1]
    vertical = taps.view(1, 1, 11, 1).expand(channels, -1, -1, -1)
    horizontal = taps.view(1, 1, 1, 11).expand(channels, -1, -1, -1)
    return F.conv2d(F.conv2d(image, vertical, groups=channels), horizontal, groups=channels)
