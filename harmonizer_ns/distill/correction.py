# SPDX-License-Identifier: Apache-2.0
"""A model learns from a repair the correction that is still to be made, not the picture.

A repair is a picture of the scene as it was some hundred steps ago. Learned as a picture, it holds all that was not
repaired at that state, against what the photos teach meanwhile. So only the change that the enhancer made is learned.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.images import resize
from harmonizer_ns.types import PseudoView


def remaining_correction(
    current: Float[Tensor, "3 ..."], render: Float[Tensor, "3 ..."], repaired: Float[Tensor, "3 ..."]
) -> Float[Tensor, "3 ..."]:
    """The training target for the present render ``c`` of a view whose earlier render ``r`` was repaired to ``t``.

    With ``d = t - r``: ``c + (1 - s) d``, and ``s = clamp(<c - r, d> / |d|^2, 0, 1)`` for each pixel over its colours,
    the share of the correction that has been made. Whatever else has changed since is left alone.

    Args:
        current: colours that the model renders now.
        render: what was repaired.
        repaired: the repair.

    Returns:
        The target in [0, 1]; it carries no gradient.
    """
    current = current.detach()
    change = repaired - render
    made = ((current - render) * change).sum(0) / change.square().sum(0).clamp(min=1e-8)
    return (current + (1 - made.clamp(0, 1)) * change).clamp(0, 1)


def correction_target(
    current: Float[Tensor, "3 h w"], view: PseudoView
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    """`remaining_correction` and weight of a pseudo-view at the size, and on the device, of the present render."""
    images = torch.cat([view.render, view.rgb, view.weight])[None].to(current.device)
    render, repaired, weight = resize(images, *current.shape[-2:])[0].split((3, 3, 1))
    return remaining_correction(current, render, repaired), weight
