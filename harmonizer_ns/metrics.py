# SPDX-License-Identifier: Apache-2.0
"""This module holds the image metrics, and the loss of Gaussian splatting.

All metrics take RGB in [0, 1] and give one value per image; masks are weights in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW = 11
"""Side of the window of SSIM in pixels."""
MSE_FLOOR = 1e-10
"""Squared errors below this count as this: equal images score 100 dB instead of infinity, so means stay finite."""


class BeforeAfter(NamedTuple):
    """Holds one metric of the plain render and of the enhanced image."""

    before: Float[Tensor, " n"]
    after: Float[Tensor, " n"]


def mask_weight(mask: Bool[Tensor, "1 h w"] | None) -> Float[Tensor, "1 h w"] | None:
    """Turn a photo's mask into weights; one that hides everything counts as none, so that there is a figure."""
    return None if mask is None or not mask.any() else mask.float()


def psnr(
    image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], mask: Float[Tensor, "n 1 h w"] | None = None
) -> Float[Tensor, " n"]:
    """Measure the peak signal-to-noise ratio in dB: ``-10 log10(sum(m e) / sum(m))``.

    ``e`` is the squared error of a pixel, averaged over the channels, and ``m`` its mask (1 without a mask).

    Raises:
        ValueError: on differing shapes or a mask that is empty for some image.
    """
    return -10 * torch.log10(_masked_mean(squared_error(image, target), mask).clamp(min=MSE_FLOOR))


def good_half_psnr(
    render: Float[Tensor, "n 3 h w"], enhanced: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
) -> BeforeAfter:
    """Measure the PSNR of render and enhanced image over the `better_half` of the render.

    An enhancer that leaves good pixels alone keeps ``after`` at ``before``.
    """
    mask = better_half(render, target).float()
    return BeforeAfter(psnr(render, target, mask), psnr(enhanced, target, mask))


def better_half(render: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Bool[Tensor, "n 1 h w"]:
    """Mark the pixels of a render that are good already: ``e <= median(e)`` with ``e`` their squared errors."""
    error = squared_error(render, target)
    return error <= error.flatten(1).median(dim=1).values[:, None, None, None]


def ssim(
    image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], mask: Float[Tensor, "n 1 h w"] | None = None
) -> Float[Tensor, " n"]:
    """Average structural similarity over the pixels whose window lies inside the image, weighted by the mask."""
    values = ssim_map(image, target).mean(dim=1, keepdim=True)
    if mask is not None:
        margin = (mask.shape[-1] - values.shape[-1]) // 2
        mask = mask[..., margin:-margin, margin:-margin]
    return _masked_mean(values, mask)


def splat_loss(
    image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], ssim_weight: float = 0.2
) -> Float[Tensor, ""]:
    """Weigh ``(1 - w) L1 + w (1 - SSIM)``, equation 7 of Kerbl et al. 2023; images below the window have L1 alone."""
    l1 = F.l1_loss(image, target)
    if ssim_weight == 0 or min(image.shape[-2:]) < SSIM_WINDOW:
        return l1
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim_map(image, target).mean())


def ssim_map(image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h-10 w-10"]:
    """Compute the structural similarity of each pixel (Wang et al. 2004, equation 13), differentiable.

    ``(2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2))`` with moments under an 11x11 Gaussian
    window of sigma 1.5, ``C1 = 0.01^2`` and ``C2 = 0.03^2``. Windows that leave the image are not evaluated.

    Raises:
        ValueError: on differing shapes or an image smaller than the window.
    """
    if image.shape != target.shape or image.ndim != 4 or min(image.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs two images n 3 h w of one shape and at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, "
            f"got {tuple(image.shape)} and {tuple(target.shape)}"
        )
    moments = torch.cat([image, target, image * image, target * target, image * target], dim=1)
    mx, my, xx, yy, xy = _gaussian_blur(moments).chunk(5, dim=1)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    structure = (2 * (xy - mx * my) + c2) / ((xx - mx * mx) + (yy - my * my) + c2)
    return luminance * structure


def _gaussian_blur(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h-10 w-10"]:
    """Blur with a separable 11-tap Gaussian of sigma 1.5, without padding."""
    offsets = torch.arange(11, device=image.device, dtype=image.dtype) - 5
    taps = torch.exp(-offsets.square() / (2 * 1.5**2))
    taps = taps / taps.sum()
    channels = image.shape[1]
    vertical = taps.view(1, 1, 11, 1).expand(channels, -1, -1, -1)
    horizontal = taps.view(1, 1, 1, 11).expand(channels, -1, -1, -1)
    return F.conv2d(F.conv2d(image, vertical, groups=channels), horizontal, groups=channels)


def gradient_energy(
    image: Float[Tensor, "n 3 h w"], weight: Float[Tensor, "n 1 h w"] | None = None
) -> Float[Tensor, ""]:
    """Average the squared differences of neighbouring pixels, along rows and along columns.

    With weights, a difference counts by the product of its pixels' weights.
    """
    along_rows, along_columns = image.diff(dim=-1).square(), image.diff(dim=-2).square()
    if weight is None:
        return along_rows.mean() + along_columns.mean()
    rows, columns = weight[..., 1:] * weight[..., :-1], weight[..., 1:, :] * weight[..., :-1, :]
    least = torch.finfo(image.dtype).tiny
    return (along_rows * rows).mean() / rows.mean().clamp(min=least) + (
        (along_columns * columns).mean() / columns.mean().clamp(min=least)
    )


def squared_error(image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Compute the squared error of each pixel, averaged over the channels."""
    if image.shape != target.shape or image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"expected two images n 3 h w of one shape, got {tuple(image.shape)}, {tuple(target.shape)}")
    return (image - target).square().mean(dim=1, keepdim=True)


def _masked_mean(values: Float[Tensor, "n 1 h w"], mask: Float[Tensor, "n 1 h w"] | None) -> Float[Tensor, " n"]:
    if mask is None:
        return values.flatten(1).mean(dim=1)
    if mask.shape != values.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, the images say {tuple(values.shape)}")
    weight = mask.flatten(1).sum(dim=1)
    if bool((weight <= 0).any()):
        raise ValueError(f"the mask is empty for image {int((weight <= 0).nonzero()[0])}")
    return (values * mask).flatten(1).sum(dim=1) / weight
