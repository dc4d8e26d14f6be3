# SPDX-License-Identifier: Apache-2.0
"""A scene whose renders are known exactly: a textured wall at z = 4, cameras in a row that look straight at it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from toy import capture_of

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import backproject

WALL = 4.0


@dataclass
class WallRenderer:
    """Renders the wall; ``damage`` is added to the colours of its right half."""

    damage: float = 0.0

    def render(self, cameras: Cameras) -> Frames:
        depth = torch.full((len(cameras), 1, cameras.height, cameras.width), WALL)
        x, y, _ = backproject(depth, cameras).unbind(-1)
        rgb = torch.stack([0.5 + 0.3 * torch.sin(a * x + b * y) for a, b in ((3, 1), (1, 4), (2, -2))], dim=1)
        rgb[..., cameras.width // 2 :] += self.damage
        return Frames(to_float(to_uint8(rgb)), torch.ones_like(depth), depth, cameras)  # as photos are


def row_of_cameras(count: int, width: int = 48, height: int = 32) -> Cameras:
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, 0, 3] = 0.25 * torch.arange(count)
    intrinsics = torch.tensor([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(pose, intrinsics, width, height)


@pytest.fixture
def wall() -> Capture:
    photos = list(WallRenderer().render(row_of_cameras(9)))
    points = backproject(torch.full((1, 1, 32, 48), WALL), photos[4].cameras)[0, ::4, ::4].reshape(-1, 3)
    names = tuple(f"images/{i:03d}.png" for i in range(9))
    return capture_of("wall", names, photos, points)


@pytest.fixture
def damaged_renderer() -> WallRenderer:
    return WallRenderer(damage=0.15)


@pytest.fixture
def perfect_renderer() -> WallRenderer:
    return WallRenderer()
