# SPDX-License-Identifier: Apache-2.0
"""What two photos show of the same keypoint becomes a point, where the cameras' known poses bear it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.progress import counted
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.fusion import Seeds
from harmonizer_ns.stereo.matching import Keypoints, Matcher
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.stereo.sources import MIN_POINTS, find_companions, lattice
from harmonizer_ns.stereo.views import relation
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import project

_PIXELS = 2.0
"""Largest distance from an epipolar line, and of a point from its keypoints, in the picture that was matched."""
_AGREEING, _LEAST = 0.3, 8
"""Share and number of two photos' matches that lie near their epipolar lines; below, all are taken for chance."""
_ANGLE = 1.5
"""Least angle between both rays, in degrees."""
_ALL_PAIRS, _PARTNERS = 12, 4
"""Photos that are all matched with each other; of more, each is with so many companions and so many that stand near."""

Pair = tuple[Keypoints, Keypoints]


@dataclass(frozen=True)
class Tracks:
    """Holds points that two photos show.

    Args:
        points: in the capture's frame.
        colors: in [0, 1], the mean of both photos.
        photos: which two they are.
        keypoints: that show it, numbered over all photos.
        angles: between both rays, in degrees.
    """

    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    photos: Int[Tensor, "p 2"]
    keypoints: Int[Tensor, "p 2"]
    angles: Float[Tensor, " p"]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def is_best(self) -> Bool[Tensor, " p"]:
        """Tell which points no other repeats whose rays meet at a larger angle."""
        rank = self.angles.argsort(descending=True, stable=True).argsort()
        first = torch.full((int(self.keypoints.max()) + 1 if len(self) else 0,), len(self))
        first = first.scatter_reduce(0, self.keypoints.flatten(), rank.repeat_interleave(2), "amin")
        return (first[self.keypoints] == rank[:, None]).all(1)

    def seeds_beyond(self, maps: Sequence[DepthMap], confidence: float) -> Seeds:
        """Take those, once each, where neither photo's depth is known with at least this confidence."""
        kept = self.is_best
        for i, found in enumerate(maps):
            mine, (height, width) = (self.photos == i).any(1).nonzero()[:, 0], found.depth.shape
            x, y = project(self.points[mine][None], found.camera)[0][0].long().unbind(-1)
            kept[mine] &= found.confidence[y.clamp(0, height - 1), x.clamp(0, width - 1)] < confidence
        return Seeds(self.points[kept], self.colors[kept], torch.zeros_like(self.points[kept]))


def find_tracks(capture: Capture, settings: StereoSettings, device: torch.device | str = "cpu") -> Tracks:
    """Match a capture's photos in pairs, whose order changes nothing; only where ``settings.matching`` is "xfeat"."""
    if settings.matching != "xfeat" or len(capture) < 2:
        pairs = torch.zeros(0, 2, dtype=torch.long)
        return Tracks(torch.zeros(0, 3), torch.zeros(0, 3), pairs, pairs, torch.zeros(0))
    order = sorted(range(len(capture)), key=lambda i: capture.names[i])
    photos, matcher, found = capture.part(order).to("cpu"), Matcher(device), []
    keypoints = [matcher.keypoints(photos, i) for i in range(len(photos))]
    first = torch.tensor([0, *(len(k.pixels) for k in keypoints)]).cumsum(0)
    for i, j in counted(choose_pairs(photos), "pairs of photos matched"):
        one, other = keypoints[i], keypoints[j]
        found.append(track((one, other), matcher.match(one, other), torch.tensor([order[i], order[j]]), first[[i, j]]))
    return Tracks(*(torch.cat([getattr(part, name) for part in found]) for name in Tracks.__dataclass_fields__))


def choose_pairs(capture: Capture) -> list[tuple[int, int]]:
    """Choose photos to match: all pairs of few; of many, each with its companions and with those that stand near."""
    photos, cameras = range(len(capture)), capture.cameras
    if len(photos) <= _ALL_PAIRS:
        return list(combinations(photos, 2))
    has_points = len(capture.points) >= MIN_POINTS
    points = capture.points.float() if has_points else lattice(cameras)
    companions = find_companions(cameras, points, capture.seen if has_points else None, _PARTNERS)
    centers = torch.cat([camera.centers for camera in cameras]).double()
    near = torch.cdist(centers, centers).argsort(dim=1, stable=True)[:, : _PARTNERS + 1].tolist()
    partners = [{*near[i], *(found.others if found else ())} - {i} for i, found in enumerate(companions)]
    return sorted({(min(i, j), max(i, j)) for i in photos for j in partners[i]})


def track(pair: Pair, matches: Int[Tensor, "m 2"], photos: Int[Tensor, " 2"], first: Int[Tensor, " 2"]) -> Tracks:
    """Make points of two photos' matches; where too few fit the cameras, none is believed.

    Args:
        pair: their keypoints.
        matches: of keypoints, as indices into both.
        photos: which two they are.
        first: what each photo's keypoints are numbered from.
    """
    cameras = (_double(pair[0].camera), _double(pair[1].camera))
    pixels = torch.stack([k.pixels[matches[:, side]] for side, k in enumerate(pair)]).double()
    near = near_epipolar_lines(pixels, cameras)
    points, angles, believed = triangulate(pixels, cameras)
    kept = near & believed & (near.sum() >= max(_LEAST, _AGREEING * len(near)))
    colors = torch.stack([k.colors[matches[:, side]] for side, k in enumerate(pair)]).mean(0)
    parts = (points.float(), colors, photos.expand_as(matches), first + matches, angles.float())
    return Tracks(*(part[kept] for part in parts))


def near_epipolar_lines(pixels: Float[Tensor, "2 m 2"], cameras: tuple[Cameras, Cameras]) -> Bool[Tensor, " m"]:
    """Tell which pixels lie near the line that the other one's ray draws in their photo, in both photos."""
    near = torch.ones(pixels.shape[1], dtype=torch.bool)
    for k in range(2):
        matrix, offset = relation(cameras[k], cameras[1 - k])
        here, there = _homogeneous(pixels[k]), _homogeneous(pixels[1 - k])
        lines = torch.linalg.cross(offset.expand_as(here), here @ matrix.T)
        near &= (lines * there).sum(-1).abs() <= _PIXELS * lines[:, :2].norm(dim=-1)
    return near


def triangulate(
    pixels: Float[Tensor, "2 m 2"], cameras: tuple[Cameras, Cameras]
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Find the points nearest to both rays: ``sum (I - r r^T) X = sum (I - r r^T) c`` for rays ``r`` from ``c``.

    Returns:
        points, the angle between both rays in degrees, and which points are believed: those in front of both cameras
        that show near their pixels, and whose rays meet at an angle.
    """
    rays = torch.stack([_rays(shown, camera) for shown, camera in zip(pixels, cameras, strict=True)])
    angles = torch.rad2deg(torch.linalg.cross(*rays).norm(dim=-1).atan2((rays[0] * rays[1]).sum(-1)))
    believed = angles >= _ANGLE
    across = torch.eye(3).to(rays) - rays[..., None] * rays[..., None, :]
    system = torch.where(believed[:, None, None], across.sum(0), torch.eye(3).to(rays))
    centers = torch.cat([camera.centers for camera in cameras])
    points = torch.linalg.solve(system, torch.einsum("nmij,nj->mi", across, centers))
    for shown, camera in zip(pixels, cameras, strict=True):
        expected, z = project(points[None], camera)
        believed &= (z[0] > 0) & ((expected[0] - shown).norm(dim=-1) <= _PIXELS)
    return points, angles, believed


def _rays(pixels: Float[Tensor, "m 2"], camera: Cameras) -> Float[Tensor, "m 3"]:
    turn = camera.camera_to_world[0, :3, :3] @ torch.linalg.inv(camera.intrinsics[0])
    return torch.nn.functional.normalize(_homogeneous(pixels) @ turn.T, dim=-1)


def _homogeneous(pixels: Float[Tensor, "m 2"]) -> Float[Tensor, "m 3"]:
    return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1)


def _double(camera: Cameras) -> Cameras:
    return replace(camera, camera_to_world=camera.camera_to_world.double(), intrinsics=camera.intrinsics.double())
