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
from torch.nn import functional as F

from harmonizer_ns.types import Frames
from harmonizer_ns.warp import SURFACE_TOLERANCE, reproject

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
    change_before, render_before, valid = _look_up(shown_before - frame_before.rgb, frame_before, frame)
    render_moved, change_moved = frame.rgb - render_before, change - change_before
    agreement = (render_moved.abs().mean(dim=1, keepdim=True) / AGREEMENT).square_().neg_().exp_()
    against = (render_moved * change_moved).sum(dim=1, keepdim=True)
    steadiest = 1 + against / change_moved.square().sum(dim=1, keepdim=True).clamp_(min=1e-8)
    stays = torch.minimum(steadiest.clamp_(min=0), KEPT * valid * agreement)
    return torch.addcmul(enhanced, stays, change_moved, value=-1).clamp_(0, 1)


def _look_up(
    change: Float[Tensor, "1 3 h w"], before: Frames, frame: Frames
) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 3 h w"], Float[Tensor, "1 1 h w"]]:
    """The last change and render in this frame's view, and how far both show the same surface, in [0, 1]."""
    pixels, z = reproject(frame.depth, frame.cameras, before.cameras)
    x, y = pixels.unbind(-1)
    inside = (x >= 0) & (x <= before.cameras.width) & (y >= 0) & (y <= before.cameras.height) & (z > 0)
    inside &= frame.depth[:, 0] > 0
    grid = torch.where(inside[..., None], pixels / pixels.new_tensor([change.shape[-1], change.shape[-2]]) * 2 - 1, 0.0)
    known = (before.depth > 0).to(change.dtype)
    seen = F.grid_sample(
        torch.cat([change, before.rgb, before.depth, known], dim=1), grid, padding_mode="border", align_corners=False
    )
    # A share of pixels without depth (0) must not pull a surface's rim nearer.
    depth, known = seen[:, 6] / seen[:, 7].clamp(min=1e-6), seen[:, 7] > 0
    gap = (z - depth) / (SURFACE_TOLERANCE * torch.where(inside, z, 1.0))
    valid = gap.square_().neg_().exp_() * (inside & known)
    return seen[:, :3], seen[:, 3:6], valid[:, None]
