# SPDX-License-Identifier: Apache-2.0
"""This loss punishes what an output changes although the input was right there."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.images import local_mean


def preservation_loss(
    output: Float[Tensor, "b 3 h w"],
    image: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    threshold: float = 0.02,
) -> Float[Tensor, ""]:
    """Compute ``mean_p c(p) max(0, |x - i| - |y - i|)`` of output x, input i, target y, with c from `clean_pixels`.

    Where the input is already clean, blurring it a little hardly moves an L2 loss, and perceptual losses accept any
    plausible texture: both let a network redraw what was right. This loss is linear, so that small changes count, and
    allows the output to differ from the input just as far as the target does: the input itself and the target both cost
    nothing, so it fights no other loss. The mean is over all pixels, not over the clean ones: a few clean pixels in a
    ruined image weigh little, a clean image weighs fully.

    Args:
        output: x.
        image: i.
        target: y.
        threshold: mean absolute difference, 5 of 255 steps by default, up to which the input counts as clean.
    """
    excess = ((output - image).abs() - (target - image).abs()).clamp(min=0)
    return (excess * clean_pixels(image, target, threshold)).mean()


def clean_pixels(
    image: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"], threshold: float = 0.02, side: int = 7
) -> Bool[Tensor, "b 1 h w"]:
    """Compute ``c(p) = [mean of |i - y| over colours and the side x side pixels around p <= threshold]``.

    Over a neighbourhood, because an error that changes its sign is 0 somewhere without being right there.
    """
    return local_mean((image - target).abs().mean(1, keepdim=True), side) <= threshold
