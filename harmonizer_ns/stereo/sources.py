# SPDX-License-Identifier: Apache-2.0
"""Which photos are matched with which, and over which depths: by the seed points they share, or by cameras alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from harmonizer_ns.poses import nearest_spacing
from harmonizer_ns.references import greedy_cover
from harmonizer_ns.spread import thin
from harmonizer_ns.types import Cameras, cat_cameras
from harmonizer_ns.warp import backproject, in_frustum, project

MIN_POINTS = 20
"""A photo that shows fewer points is not matched."""
_OF_ALL, _MOST_POINTS, _FEW_POINTS = 16384, 1024, 128
"""Points that are looked for in a photo where nothing is known of it, that it is compared by, and that are enough to
choose candidates."""
_CANDIDATES = 48
"""Photos that are compared closely, so that the cost for a photo hardly grows with their number."""
_ANGLES = (2.0, 30.0)
_WIDEST = 60.0
"""The largest angle to a source for photos that have none below."""
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

    def in_view(photos: Sequence[int], chosen: Int[Tensor, " k"]) -> Bool[Tensor, "n k"]:
        return in_frustum(unit[list(photos)], points[chosen])

    tracks = _Tracks(seen or [], len(points))

    def tracked(photos: Sequence[int], chosen: Int[Tensor, " k"]) -> Bool[Tensor, "n k"]:
        shown = tracks.shown(chosen)[list(photos)]
        some = shown.any(1).nonzero()[:, 0].tolist()
        shown[some] &= in_view([photos[k] for k in some], chosen)
        return shown

    everything = thin(torch.arange(len(points)), _OF_ALL)
    own = (everything if seen is None else seen[i].unique() for i in range(len(cameras)))
    shows = in_view if seen is None else tracked
    found = (_companions(i, unit, points, mine, shows, count) for i, mine in enumerate(own))
    return [one or _companions(i, unit, points, everything, in_view, count) for i, one in enumerate(found)]


Shows = Callable[[Sequence[int], Int[Tensor, " k"]], Bool[Tensor, "n k"]]
"""Tells which of some photos show which of some points."""


class _Tracks:
    """Finds the photos that are known to show a point, without a table of all photos and points."""

    def __init__(self, seen: list[Tensor], count: int) -> None:
        point, order = torch.cat([torch.zeros(0, dtype=torch.long), *seen]).long().sort(stable=True)
        lengths = torch.tensor([len(part) for part in seen], dtype=torch.long)
        self._photo = torch.arange(len(seen)).repeat_interleave(lengths)[order]
        self._photos, self._count = len(seen), torch.bincount(point, minlength=count)
        self._first = self._count.cumsum(0) - self._count

    def shown(self, chosen: Int[Tensor, " k"]) -> Bool[Tensor, "n k"]:
        """Tell which photos show which of some points."""
        count = self._count[chosen]
        column = torch.arange(len(chosen)).repeat_interleave(count)
        within = torch.arange(len(column)) - (count.cumsum(0) - count).repeat_interleave(count)
        shown = torch.zeros(self._photos, len(chosen), dtype=torch.bool)
        shown[self._photo[self._first[chosen].repeat_interleave(count) + within], column] = True
        return shown


def _companions(
    index: int, unit: Cameras, points: Float[Tensor, "p 3"], own: Int[Tensor, " k"], shows: Shows, count: int
) -> Companions | None:
    """Choose companions of a photo that may show its ``own`` points; of many, those that a few points favour."""
    mine = thin(own[in_frustum(unit[[index]], points[own])[0]], _MOST_POINTS)
    if len(mine) < MIN_POINTS:
        return None
    photos = list(range(len(unit)))
    if len(photos) > _CANDIDATES:
        photos = _candidates(index, unit, points, thin(mine, _FEW_POINTS), shows)
    here = photos.index(index)
    shown = shows(photos, mine)
    shown[here] = False
    others: tuple[int, ...] = ()
    for widest in (_ANGLES[1], _WIDEST):
        scores = angle_scores(here, unit[photos], points[mine], widest) * shown
        others = tuple(photos[j] for j in greedy_cover(scores, count) if (scores[j] > 0).sum() >= MIN_POINTS)
        if others:
            break
    z = project(points[mine][None], unit[[index]])[1][0]
    near, far = z.quantile(z.new_tensor([0.01, 0.99])).tolist()
    return Companions(others, 0.8 * near, 1.5 * far) if others and near > 0 else None


def _candidates(
    index: int, unit: Cameras, points: Float[Tensor, "p 3"], few: Int[Tensor, " k"], shows: Shows
) -> list[int]:
    """Choose the photos that a few points favour, in order, the photo itself among them."""
    shown, favour = shows(range(len(unit)), few), torch.zeros(len(unit))
    some = sorted({index, *shown.any(1).nonzero()[:, 0].tolist()})
    scores = angle_scores(some.index(index), unit[some], points[few])
    favour[some] = (scores * shown[some]).sum(1)
    return sorted({index, *favour.argsort(descending=True, stable=True)[:_CANDIDATES].tolist()})


def angle_scores(
    index: int, cameras: Cameras, points: Float[Tensor, "p 3"], widest: float = _ANGLES[1]
) -> Float[Tensor, "n p"]:
    """Score how well each camera goes with one camera at each point, in [0, 1].

    The score is a bell over the angle ``a`` between both rays, as in MVSNet (Yao et al. 2018): steep below 10 degrees,
    wide above, 0 outside of 2 to ``widest`` degrees; times the ratio of both resolutions ``min(s, 1/s)``.
    """
    rays = normalize(points[None] - cameras.centers[:, None], dim=-1)
    angle = torch.rad2deg(torch.acos((rays * rays[index]).sum(-1).clamp(-1, 1)))
    width = torch.where(angle < _BEST_ANGLE, _BELOW, _ABOVE)
    bell = torch.exp(-((angle - _BEST_ANGLE) ** 2) / (2 * width**2)) * (angle >= _ANGLES[0]) * (angle <= widest)
    sharpness = cameras.intrinsics[:, 1, 1, None] / project(points[None], cameras)[1].clamp(min=1e-12)
    ratio = sharpness / sharpness[index]
    return bell * torch.minimum(ratio, 1 / ratio)


def lattice(cameras: list[Cameras]) -> Float[Tensor, "p 3"]:
    """Make points where the scene may be, for captures without any: along rays, 2 to 40 camera spacings away."""
    spacing = nearest_spacing(torch.cat([camera.camera_to_world for camera in cameras]))[0]
    depths = spacing * torch.logspace(0.3, 1.6, 12)
    coarse = [camera.resized(6, 4) for camera in cameras]
    return torch.cat([backproject(depth.expand(1, 1, 4, 6), c).reshape(-1, 3) for c in coarse for depth in depths])
