# SPDX-License-Identifier: Apache-2.0
"""Depth of one photo from its sources: a sweep of planes, then of sheets along what was found, from coarse to fine."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.stereo.sources import Companions
from harmonizer_ns.stereo.views import View, parallax

_SHEETS, _SHEET_STEP = 9, 0.5
"""Sheets are half a pixel apart in the source that moves most."""
_MOST_INVERSE = 4.0
"""No sheet comes nearer than a quarter of the least depth that is looked for."""


def sweep(
    views: list[View], others: list[list[View]], companions: Companions, planes: int
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Find the inverse depth of a photo, and the correlation with its best sources there.

    Args:
        views: of the photo, from coarse to fine.
        others: of its sources, as many sizes each.
        companions: between which depths to look.
        planes: how many at most.
    """
    far, near = 1 / companions.far, 1 / companions.near
    pixel = parallax(views[0].camera, [other[0].camera for other in others], (far + near) / 2)
    count = int(min(max((near - far) * pixel + 1, 8), planes))
    base = torch.full_like(views[0].grey, far, dtype=torch.float32)
    search = _search_on(base.device)
    inverse, score = search(views[0], [other[0] for other in others], base, (near - far) / (count - 1), 0, count)
    for level, view in enumerate(views):
        size = view.camera.height, view.camera.width
        base = F.interpolate(_smoothed(inverse)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        level_others = [other[level] for other in others]
        pixel = parallax(view.camera, [other.camera for other in level_others], base.median().item())
        step = _SHEET_STEP / max(pixel, 1e-6)
        inverse, score = search(view, level_others, base, step, -(_SHEETS // 2), _SHEETS)
        inverse = inverse.clamp(max=_MOST_INVERSE * near)
    return inverse, score


def _search_on(device: torch.device):
    """Choose the implementation for a device; imported late, since either is heavy."""
    if device.type == "cpu":
        from harmonizer_ns.stereo.search_numba import search
    else:
        from harmonizer_ns.stereo.search_torch import search
    return search


def _smoothed(inverse: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Take medians over 3x3 pixels."""
    around = F.unfold(F.pad(inverse[None, None], (1, 1, 1, 1), mode="replicate"), 3)[0]
    return around.median(dim=0).values.reshape(inverse.shape)
