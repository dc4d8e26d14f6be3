# SPDX-License-Identifier: Apache-2.0
"""Depth of one photo from its sources: a sweep of planes, then of sheets along what was found, from coarse to fine."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.stereo.planes import fit_planes
from harmonizer_ns.stereo.sources import Companions
from harmonizer_ns.stereo.views import View, parallax

_SHEETS = 9
_SHEET_STEPS = (0.5, 0.25)
"""Pixels between sheets in the source that moves most: at every size, and once more at the last."""
_MOST_INVERSE = 4.0
"""No sheet comes nearer than a quarter of the least depth that is looked for."""


def sweep(
    views: list[View], others: list[list[View]], companions: Companions, planes: int, correlation: float
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Find the inverse depth of a photo, and how well it is known there, see `fit_planes`.

    Args:
        views: of the photo, from coarse to fine.
        others: of its sources, as many sizes each.
        companions: between which depths to look.
        planes: how many at most.
        correlation: least one of pixels that planes are fitted to.
    """
    far, near = 1 / companions.far, 1 / companions.near
    pixel = parallax(views[0].camera, [other[0].camera for other in others], (far + near) / 2)
    count = int(min(max((near - far) * pixel + 1, 8), planes))
    base = torch.full_like(views[0].grey, far, dtype=torch.float32)
    search = _search_on(base.device)
    inverse, score = search(views[0], [other[0] for other in others], base, (near - far) / (count - 1), 0, count)
    inverse, known = _planes(views[0], inverse, score, correlation)
    for level, spacing in [*((level, _SHEET_STEPS[0]) for level in range(len(views))), (-1, _SHEET_STEPS[1])]:
        view, level_others = views[level], [other[level] for other in others]
        base = F.interpolate(inverse[None, None], view.grey.shape, mode="bilinear", align_corners=False)[0, 0]
        pixel = parallax(view.camera, [other.camera for other in level_others], base.median().item())
        step = spacing / max(pixel, 1e-6)
        inverse, score = search(view, level_others, base, step, -(_SHEETS // 2), _SHEETS)
        inverse, known = _planes(view, inverse.clamp(max=_MOST_INVERSE * near), score, correlation)
    return inverse, known


def _planes(
    view: View, inverse: Float[Tensor, "h w"], score: Float[Tensor, "h w"], correlation: float
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Fit planes to pixels that match well and are not masked."""
    weight = torch.where(score >= correlation, score.clamp(max=1), 0.0)
    return fit_planes(inverse, weight if view.mask is None else weight * view.mask, view.grey.float())


def _search_on(device: torch.device):
    """Choose the implementation for a device; imported late, since either is heavy."""
    if device.type == "cpu":
        from harmonizer_ns.stereo.search_numba import search
    else:
        from harmonizer_ns.stereo.search_torch import search
    return search
