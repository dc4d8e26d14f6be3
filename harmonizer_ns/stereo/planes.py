# SPDX-License-Identifier: Apache-2.0
"""Noise of depth is taken out by planes that are fitted to each pixel's surroundings."""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_REACH = 3
"""Planes are fitted to 7x7 pixels."""
_SAME_COLOR = 0.05
"""Pixels that differ by so much grey count 1/e."""
_LIMITS = (0.06, 0.02)
"""Relative distances from the plane at which pixels cease to count: first from a flat one, then from the one found."""
_OPEN_SLOPE = 0.01
"""Added to the spread of pixels, in pixels squared: where they leave a slope open, it is small."""
_FEW = 1.0
"""Pixels that match perfectly, of which so many make a plane half known."""
_ROUGH = 0.01
"""Relative distance of pixels from the plane, root mean square, at which it is known 1/e as well."""


def fit_planes(
    inverse: Float[Tensor, "h w"], weight: Float[Tensor, "h w"], grey: Float[Tensor, "h w"]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Fit a plane to each pixel's surroundings: on one, ``1/z`` is linear in the pixel.

    Neighbours count by their weight, by how alike they are in grey, and by Tukey's biweight of their distance from the
    plane. Every pixel is computed alone, so that the number of threads changes no bit.

    Args:
        inverse: inverse depth.
        weight: how far it is to be believed, in [0, 1].
        grey: of the photo, in [0, 1].

    Returns:
        inverse depth of the planes, that of the pixel itself where no other counts; and how well they are known, in
        [0, 1]: ``n / (n + 1) exp(-r / 0.01)`` with the sum of weights ``n`` and the relative residual ``r``.
    """
    height, width = inverse.shape
    padded = F.pad(torch.stack([inverse, weight, grey])[:, None], (_REACH,) * 4)[:, 0]
    found, known = torch.stack([inverse, torch.zeros_like(inverse), torch.zeros_like(inverse)]), inverse
    for limit in _LIMITS:
        plane, slope_x, slope_y = found
        within = (limit * plane).clamp(min=1e-12)
        sums = inverse.new_zeros(10, height, width)
        for dy, dx in product(range(-_REACH, _REACH + 1), repeat=2):
            other, count, color = padded[:, _REACH + dy :, _REACH + dx :][:, :height, :width]
            off = other - plane
            near = (1 - ((off - slope_x * dx - slope_y * dy) / within).square_()).clamp_(min=0).square_()
            count = count * near * torch.exp((color - grey).abs_() / -_SAME_COLOR)
            terms = inverse.new_tensor([1, dx, dy, dx * dx, dx * dy, dy * dy])[:, None, None]
            sums[:6].addcmul_(terms, count)
            count *= off
            sums[6:9].addcmul_(terms[:3], count)
            sums[9].addcmul_(count, off)
        found, residual = _solved(sums, plane)
        known = sums[0] / (sums[0] + _FEW) * torch.exp(residual / found[0].clamp(min=1e-12) / -_ROUGH)
    return found[0].clamp(min=0), known


def _solved(
    sums: Float[Tensor, "10 h w"], plane: Float[Tensor, "h w"]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Solve for each pixel's plane and slopes by least squares; also gives the weighted distance from it."""
    x, y, xx, xy, yy, d, xd, yd, dd = sums[1:] / sums[0].clamp(min=1e-9)
    xx, xy, yy = xx - x * x + _OPEN_SLOPE, xy - x * y, yy - y * y + _OPEN_SLOPE
    xd, yd, dd = xd - x * d, yd - y * d, dd - d * d
    area = xx * yy - xy * xy
    slope_x, slope_y = (xd * yy - yd * xy) / area, (yd * xx - xd * xy) / area
    residual = (dd - slope_x * xd - slope_y * yd).clamp(min=0).sqrt()
    return torch.stack([plane + d - slope_x * x - slope_y * y, slope_x, slope_y]), residual
