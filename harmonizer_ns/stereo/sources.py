# SPDX-License-Identifier: Apache-2.0
"""Which photos are matched with which, and over which depths: by the seed points they share, or by cameras alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from harmonizer_ns.poses import nearest_spacing
from harmonizer_ns.references import greedy_cover
from harmonizer_ns.spread import thin
from harmonizer_ns.types import Cameras, cat_cameras
from harmonizer_ns.warp import backproject, in_frustum, project

MIN_POINTS = 20
"""A photo that shows fewer points is not matched."""
_MOST_POINTS = 4096
_ANGLES = (2.0, 30.0)
_BEST_ANGLE, _BELOW, _ABOVE = 10.0, 4.0, 10.0


@dataclass(frozen=True)
class Companions:
    """A photo's sources, best first, and the depths between which it is searched.

    Args:
        others: indices of photos.
        near: least z-depth.
        far: largest z-depth.
    """

    others: tuple[int, ...]
    near: float
    far: float


def find_companions(
    cameras: list[Cameras], points: Float[Tensor, "p 3"], seen: list[Tensor] | None, count: int
) -> list[Companions | None]:
    """Choose sources and a range of depth for every photo; None for one that shares too little with all others.

    Args:
        cameras: of the photos, batches of one.
        points: of the scene.
        seen: the points that each photo is known to show. Photos that are known to share too few with all others, or
            all where this is None, are taken to show what falls into their images.
        count: how many sources at most.
    """
    if not cameras:
        return []
    unit = cat_cameras([camera.resized(1, 1) for camera in cameras])
    shown = in_frustum(unit, points)
    tracked = shown if seen is None else _tracked(seen, shown)
    found = (_companions(i, unit, points, tracked, count) for i in range(len(cameras)))
    return [one or _companions(i, unit, points, shown, count) for i, one in enumerate(found)]


def _tracked(seen: list[Tensor], shown: Bool[Tensor, "n p"]) -> Bool[Tensor, "n p"]:
    tracked = torch.zeros_like(shown)
    for row, indices in zip(tracked, seen, strict=True):
        row[indices] = True
    return tracked & shown


def _companions(
    index: int, unit: Cameras, points: Float[Tensor, "p 3"], shown: Bool[Tensor, "n p"], count: int
) -> Companions | None:
    mine = thin(shown[index].nonzero(), _MOST_POINTS)[:, 0]
    if len(mine) < MIN_POINTS:
        return None
    scores = angle_scores(index, unit, points[mine]) * shown[:, mine]
    scores[index] = 0
    others = tuple(j for j in greedy_cover(scores, count) if (scores[j] > 0).sum() >= MIN_POINTS)
    z = project(points[mine][None], unit[index])[1][0]
    near, far = z.quantile(z.new_tensor([0.01, 0.99])).tolist()
    return Companions(others, 0.8 * near, 1.5 * far) if others and near > 0 else None


def angle_scores(index: int, cameras: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "n p"]:
    """Score how well each camera goes with one camera at each point, in [0, 1].

    The score is a bell over the angle ``a`` between both rays, as in MVSNet (Yao et al. 2018): steep below 10 degrees,
    wide above, 0 outside of 2 to 30 degrees; times the ratio of both resolutions ``min(s, 1/s)``.
    """
    rays = normalize(points[None] - cameras.centers[:, None], dim=-1)
    angle = torch.rad2deg(torch.acos((rays * rays[index]).sum(-1).clamp(-1, 1)))
    width = torch.where(angle < _BEST_ANGLE, _BELOW, _ABOVE)
    bell = torch.exp(-((angle - _BEST_ANGLE) ** 2) / (2 * width**2)) * (angle >= _ANGLES[0]) * (angle <= _ANGLES[1])
    sharpness = cameras.intrinsics[:, 1, 1, None] / project(points[None], cameras)[1].clamp(min=1e-12)
    ratio = sharpness / sharpness[index]
    return bell * torch.minimum(ratio, 1 / ratio)


def lattice(cameras: list[Cameras]) -> Float[Tensor, "p 3"]:
    """Make points where the scene may be, for captures without any: along rays, 2 to 40 camera spacings away."""
    spacing = nearest_spacing(torch.cat([camera.camera_to_world for camera in cameras]))[0]
    depths = spacing * torch.logspace(0.3, 1.6, 12)
    coarse = [camera.resized(6, 4) for camera in cameras]
    return torch.cat([backproject(depth.expand(1, 1, 4, 6), c).reshape(-1, 3) for c in coarse for depth in depths])
