# SPDX-License-Identifier: Apache-2.0
"""Normals of the surfaces that a depth map shows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import inverted, pixel_grid

_SIDE = 5
_SAME_SURFACE = 0.1
_LEAST_SPREAD = 1.0


def fit_normals(depth: Float[Tensor, "h w"], camera: Cameras) -> Float[Tensor, "h w 3"]:
    """Fit unit normals in the world that look at the camera; zero where a pixel has too few neighbours for one.

    On a plane ``1/z = g . (x, y, 1)``, and its normal is along ``R K^T g``. ``g`` is fitted by least squares to
    those of 5x5 pixels whose inverse depth is within a tenth of the centre's.
    """
    inverse = inverted(depth)
    around = F.unfold(inverse[None, None], _SIDE, padding=_SIDE // 2)[0].view(-1, *inverse.shape)
    weight = ((around > 0) & ((around - inverse).abs() < _SAME_SURFACE * inverse)).to(inverse)
    offsets = pixel_grid(_SIDE, _SIDE, depth.device).reshape(-1, 2) - _SIDE / 2
    terms = torch.cat([offsets, torch.ones_like(offsets[:, :1])], dim=1)
    left = torch.stack([(weight[..., None] * (a * terms)[:, None, None]).sum(0) for a in terms.T[..., None]], dim=-1)
    right = (weight * around)[..., None] * terms[:, None, None]
    solvable = torch.linalg.det(left) > _LEAST_SPREAD
    slopes = torch.linalg.solve(torch.where(solvable[..., None, None], left, torch.eye(3).to(left)), right.sum(0))
    pixels = pixel_grid(camera.width, camera.height, depth.device)
    constant = slopes[..., 2] - (slopes[..., :2] * pixels).sum(-1)
    plane = torch.cat([slopes[..., :2], constant[..., None]], dim=-1)
    turn = camera.intrinsics[0] @ camera.camera_to_world[0, :3, :3].T
    normals = -F.normalize(plane @ turn.to(plane), dim=-1, eps=1e-30)
    return torch.where((solvable & (depth > 0))[..., None], normals, 0.0)
