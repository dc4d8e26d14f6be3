# SPDX-License-Identifier: Apache-2.0
"""Scenes whose depth is known exactly: textured planes and spheres, seen by rays through pixel centres."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from toy import look_at

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.evaluation import stereo as judged
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import backproject, pixel_grid

Hit = Callable[[Tensor, Tensor], Tensor]
"""From ray origins and directions (``* 3``) to how many directions away the surface is; infinity where it is missed."""


def plane(normal: Sequence[float], distance: float) -> Hit:
    """All x with ``normal . x = distance``."""
    n = torch.tensor(normal, dtype=torch.float64)

    def hit(origin: Tensor, ray: Tensor) -> Tensor:
        t = (distance - origin @ n) / (ray @ n)
        return torch.where((t > 0) & t.isfinite(), t, torch.inf)

    return hit


def sphere(center: Sequence[float], radius: float) -> Hit:
    c = torch.tensor(center, dtype=torch.float64)

    def hit(origin: Tensor, ray: Tensor) -> Tensor:
        a, b = (ray * ray).sum(-1), (ray * (origin - c)).sum(-1)
        root = b * b - a * (((origin - c) ** 2).sum(-1) - radius**2)
        t = (-b - root.clamp(min=0).sqrt()) / a
        return torch.where((root > 0) & (t > 0), t, torch.inf)

    return hit


def noise(seed: int, frequency: float = 30.0, waves: int = 40) -> Callable[[Tensor], Tensor]:
    """A solid texture in [0, 1] without repetition: waves in random directions, most of them long."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(waves, 3, generator=generator, dtype=torch.float64)
    lengths = frequency * torch.rand(waves, 1, generator=generator, dtype=torch.float64) ** 1.5 + 1
    phases = 2 * math.pi * torch.rand(waves, 3, generator=generator, dtype=torch.float64)

    def color(points: Tensor) -> Tensor:
        angle = points @ (directions * lengths).T
        return (0.5 + (0.7 / math.sqrt(waves)) * torch.sin(angle[..., None] + phases).sum(-2)).clamp(0.02, 0.98)

    return color


@dataclass(frozen=True)
class Solids:
    """Surfaces and what colours them."""

    surfaces: Sequence[Hit]
    color: Callable[[Tensor], Tensor]

    def depth(self, camera: Cameras) -> Tensor:
        """Exact z-depth, ``h w``, in float64."""
        origin, rays = rays_of(camera)
        return torch.stack([hit(origin.expand_as(rays), rays) for hit in self.surfaces]).min(0).values

    def photo(self, camera: Cameras, samples: int = 3) -> Tensor:
        """Colours ``3 h w``, each pixel the mean of ``samples`` squared rays."""
        fine = camera.resized(samples * camera.width, samples * camera.height)
        origin, rays = rays_of(fine)
        rgb = self.color(origin + self.depth(fine)[..., None] * rays).permute(2, 0, 1)
        return torch.nn.functional.avg_pool2d(rgb, samples).float()


def rays_of(camera: Cameras) -> tuple[Tensor, Tensor]:
    """The camera's centre, and for every pixel the way to the point at depth 1, in float64."""
    pose, grid = camera.camera_to_world[0].double(), pixel_grid(camera.width, camera.height).double()
    pixels = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1)
    return pose[:3, 3], pixels @ torch.linalg.inv(camera.intrinsics[0].double()).T @ pose[:3, :3].T


def capture(solids: Solids, cameras: Sequence[Cameras], points: int = 300) -> Capture:
    """Photograph solids; seed points lie on them."""
    photos = [to_uint8(solids.photo(camera)) for camera in cameras]
    generator = torch.Generator().manual_seed(1)
    found = []
    for camera in cameras:
        world = backproject(solids.depth(camera)[None, None].float(), camera)[0].reshape(-1, 3)
        found.append(world[torch.randperm(len(world), generator=generator)[: points // len(cameras)]])
    cloud = torch.cat(found)
    names = tuple(f"{i:03d}.png" for i in range(len(photos)))
    grey = torch.full_like(cloud, 0.5)
    return Capture("solids", names, list(cameras), cloud, grey, lambda i: (photos[i], None))


def changed(capture: Capture, change: Callable[[int, Tensor], Tensor]) -> Capture:
    """The capture with other photos: ``change`` gets the index and the colours ``3 h w`` of each."""
    photos = [to_uint8(change(i, to_float(capture.photo(i)))) for i in range(len(capture))]
    return replace(capture, read=lambda i: (photos[i], None), _cache={})


def precision(maps: Sequence[DepthMap], solids: Solids) -> float:
    """The share of pixels called sure whose depth is right."""
    return judged.precision(maps, truths(maps, solids))


def coverage(maps: Sequence[DepthMap], solids: Solids) -> float:
    """The share of sure pixels among those that at least two photos show."""
    return judged.covered(maps, truths(maps, solids))


def truths(maps: Sequence[DepthMap], solids: Solids) -> list[Tensor]:
    return [solids.depth(m.camera).float() for m in maps]


def off_surface(points: Tensor, solids: Solids) -> Tensor:
    """How far points lie off the nearest surface, along rays from the middle camera, relative to their depth."""
    eye = torch.tensor([0.0, 0.0, -3.0], dtype=torch.float64)
    rays = points.double() - eye
    return torch.stack([hit(eye.expand_as(rays), rays) - 1 for hit in solids.surfaces]).abs().min(0).values


def around(count: int, width: int = 96, height: int = 72, span: float = 0.5, distance: float = 3.0) -> list[Cameras]:
    """Cameras on an arc that look at the origin, going up and down a little."""
    angles = torch.linspace(-span / 2, span / 2, count).tolist()
    eyes = [distance * torch.tensor([math.sin(a), 0.08 * math.cos(5 * i), -math.cos(a)]) for i, a in enumerate(angles)]
    focal = 1.1 * width
    intrinsics = torch.tensor([[[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]])
    return [Cameras(look_at(eye, torch.zeros(3))[None], intrinsics, width, height) for eye in eyes]


ROOM = (plane((0, 0, 1), 1.0), sphere((-0.35, 0.1, -0.1), 0.35), plane((0.6, 0.1, 1), 0.9))
