# SPDX-License-Identifier: Apache-2.0
"""A scene with a known answer: a textured plane at z = 4, seen by cameras around the origin."""

import torch
from toy_enhancer import ToyEnhancer

from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import pixel_grid

PLANE = 4.0


def look_at(position, aim, width=48, height=32, focal=40.0):
    """A camera at ``position`` that looks at ``aim``, image upright (world y points down)."""
    position, aim = torch.tensor(position, dtype=torch.float32), torch.tensor(aim, dtype=torch.float32)
    z = torch.nn.functional.normalize(aim - position, dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), z), dim=0)
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
    pose[:3, 3] = position
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    return Cameras(pose[None], K, width, height)


def row_of_cameras(count=5, spacing=0.5, **size):
    xs = [spacing * (i - (count - 1) / 2) for i in range(count)]
    return [look_at((x, 0.0, 0.0), (x, 0.0, PLANE), **size) for x in xs]


def plane_points(count=2000, half=4.0, seed=0):
    xy = (torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * half
    return torch.cat([xy, torch.full((count, 1), PLANE)], dim=1)


def texture(x, y):
    """Smooth colours without two equal places nearby."""
    waves = [torch.sin(1.7 * x + 0.9 * y), torch.sin(2.3 * y - 0.4 * x), torch.cos(1.1 * x - 1.9 * y)]
    return 0.5 + 0.4 * torch.stack(waves, dim=1)


class PlaneRenderer:
    """Renders the plane exactly; ``damage`` darkens the image, ``calls`` counts."""

    def __init__(self, damage=0.0):
        self.damage, self.calls = damage, 0

    def render(self, cameras):
        self.calls += 1
        grid = pixel_grid(cameras.width, cameras.height)
        homogeneous = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1)
        local = torch.einsum("nij,hwj->nhwi", torch.linalg.inv(cameras.intrinsics), homogeneous)
        rays = torch.einsum("nij,nhwj->nhwi", cameras.camera_to_world[:, :3, :3], local)
        centers = cameras.centers[:, None, None]
        depth = (PLANE - centers[..., 2]) / rays[..., 2]
        hit = ((depth > 0) & torch.isfinite(depth))[:, None].float()
        depth = torch.where(hit[:, 0] > 0, depth, torch.zeros_like(depth))
        points = centers + rays * depth[..., None]
        rgb = texture(points[..., 0], points[..., 1]) * hit * (1 - self.damage)
        return Frames(rgb, hit, depth[:, None], cameras)


def photo_of(camera, bytes_=False):
    rgb = PlaneRenderer().render(camera).rgb[0]
    return (rgb * 255).round().to(torch.uint8) if bytes_ else rgb


class PlaneCapture:
    """Photos of the plane, and its seed points."""

    def __init__(self, cameras, points=None, bytes_=False):
        self.cameras, self.points, self.bytes_ = cameras, points, bytes_
        self.train = range(len(cameras))

    def photo(self, index):
        return photo_of(self.cameras[index], self.bytes_)


class TrueEnhancer(ToyEnhancer):
    """Knows the answer."""

    max_references = 4

    def __init__(self):
        self.calls, self.outputs, self.contexts = 0, [], []

    def enhance(self, frames, context=None):
        self.calls += 1
        rgb = PlaneRenderer().render(frames.cameras).rgb
        rgb[..., 0, 0] = 1.05  # as the decoder of a diffusion model may
        repaired = Repaired(rgb, torch.full_like(frames.alpha, 0.9))
        self.outputs.append((repaired, rgb.clone()))
        self.contexts.append(context)
        return repaired
