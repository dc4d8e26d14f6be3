# SPDX-License-Identifier: Apache-2.0
"""Where a viewer begins when nothing but the splats is known."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.poses import look_at
from harmonizer_ns.splats.model import Splats
from harmonizer_ns.types import Cameras, Frames, Renderer

_REACH = 0.9
"""This share of the solid splats fits into the view."""
_SOLID = 0.5
"""Opacity from which a Gaussian is part of a surface."""
_MOST = 100_000
"""So many Gaussians tell where a scene is."""
_AZIMUTHS = 8
_ELEVATION = math.radians(15)
_UPS = ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
"""Up in COLMAP's captures, and in nerfstudio's runs."""


@torch.no_grad()
def overview(splats: Splats, renderer: Renderer) -> Cameras:
    """Choose a camera from which a scene is seen: outside, upright, and with nothing close in front of it.

    Scenes are wider than they are high, which tells which of the usual directions is up. Of cameras around the scene
    the one is taken that sees most of it at a distance: a floater in front of a camera is close.

    Args:
        splats: of the scene.
        renderer: draws them.
    """
    means, solid = splats["means"].cpu(), torch.sigmoid(splats["opacities"].cpu()) > _SOLID
    points = means[solid] if solid.any() else means
    points = points[:: max(1, len(points) // _MOST)]
    center = points.median(dim=0).values
    offsets = points - center
    radius = max(torch.quantile(offsets.norm(dim=1), _REACH).item(), 1e-6)
    up = min((torch.tensor(up) for up in _UPS), key=lambda up: torch.quantile((offsets @ up).abs(), _REACH).item())
    cameras = [_around(center, radius, up, 2 * math.pi * i / _AZIMUTHS) for i in range(_AZIMUTHS)]
    seen = [_seen(renderer.render(camera.resized(80, 60)), radius) for camera in cameras]
    return cameras[seen.index(max(seen))]


def _around(center: Float[Tensor, " 3"], radius: float, up: Float[Tensor, " 3"], azimuth: float) -> Cameras:
    first = torch.tensor([1.0, 0.0, 0.0])
    second = torch.linalg.cross(up, first)
    level = math.cos(azimuth) * first + math.sin(azimuth) * second
    offset = math.cos(_ELEVATION) * level + math.sin(_ELEVATION) * up
    pose = look_at(center + 2 * radius * offset, center, up)
    intrinsics = torch.tensor([[[800.0, 0.0, 400.0], [0.0, 800.0, 300.0], [0.0, 0.0, 1.0]]])
    return Cameras(pose[None], intrinsics, 800, 600)


def _seen(frames: Frames, radius: float) -> float:
    """Give the share of a picture that shows something at a distance."""
    return (frames.alpha * (frames.depth > 0.5 * radius)).mean().item()
