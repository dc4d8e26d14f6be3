# SPDX-License-Identifier: Apache-2.0
"""Steady video from any enhancer: what it changes is filtered along the exact motion of the scene.

An enhancer decides anew in every frame, and a different decision about the same surface is flicker. With the render
``r_t``, the enhancer's output ``e_t`` and the look-up ``W`` of the last frame by depth and cameras, its *change*
``c_t = e_t - r_t`` goes through a recursive filter of first order, and ``r_t + c'_t`` is shown:

    c'_t = (1 - g) c_t + g W c'_{t-1}.

At every pixel ``g`` is what makes the picture steadiest. The render moves by ``d = r_t - W r_{t-1}`` and the change by
``j = c_t - W c'_{t-1}``, so the picture moves by ``d + (1 - g) j``, least for ``1 - g = -d j / |j|^2``: a change that
takes flicker out of the render passes as it is. ``g`` lies between 0 and ``KEPT m exp(-(|d| / AGREEMENT)^2)``, with the
look-up's validity ``m``: nothing stays where something else is seen, and no decision stays for long.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.types import Frames
from harmonizer_ns.warp import look_up

KEPT = 0.75
"""At most this share of the last change stays: then the newest of four outputs weighs a quarter."""
AGREEMENT = 0.05
"""Mean difference of two renders' colours at which little stays."""


def steady(
    enhanced: Float[Tensor, "1 3 h w"], frame: Frames, shown_before: Float[Tensor, "1 3 h w"], frame_before: Frames
) -> Float[Tensor, "1 3 h w"]:
    """Filter the change that an enhancer made to a frame.

    Args:
        enhanced: its output.
        frame: the render that it was given.
        shown_before: what was shown for the last frame.
        frame_before: the last render, of the same size.
    """
    change = enhanced - frame.rgb
    images = torch.cat([shown_before - frame_before.rgb, frame_before.rgb], dim=1)
    seen, same_surface, inside, known = look_up(images, frame_before, frame.depth, frame.cameras)
    change_before, render_before = seen.split(3, dim=1)
    valid = same_surface * (inside & known)
    render_moved, change_moved = frame.rgb - render_before, change - change_before
    agreement = (render_moved.abs().mean(dim=1, keepdim=True) / AGREEMENT).square_().neg_().exp_()
    against = (render_moved * change_moved).sum(dim=1, keepdim=True)
    steadiest = 1 + against / change_moved.square().sum(dim=1, keepdim=True).clamp_(min=1e-8)
    stays = torch.minimum(steadiest.clamp_(min=0), KEPT * valid * agreement)
    return torch.addcmul(enhanced, stays, change_moved, value=-1).clamp_(0, 1)
