# SPDX-License-Identifier: Apache-2.0
"""A viewer of splats alone begins where they are seen."""

from __future__ import annotations

import pytest
import torch

from harmonizer_ns.splats.model import seed_splats
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.viewing.framing import overview

UPS = {"COLMAP": (0.0, -1.0, 0.0), "nerfstudio": (0.0, 0.0, 1.0)}


def slab(up, floaters=()):
    """A wide, flat scene, and a few large opaque things beside it."""
    across = torch.rand(600, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    axis = torch.tensor(up)
    points = across - 0.7 * (across @ axis)[:, None] * axis
    points = torch.cat([points, torch.tensor(floaters).reshape(-1, 3)])
    splats = seed_splats(points, torch.rand(len(points), 3), 0, opacity=0.95)
    splats["scales"][:600] = splats["scales"][:600].clamp(max=-2.5)
    splats["scales"][600:] = -0.7
    return splats


@pytest.mark.parametrize("up", UPS.values(), ids=list(UPS))
def test_the_first_view_is_upright_and_shows_the_scene(up):
    splats = slab(up)
    camera = overview(splats, SplatRenderer(splats))
    assert (-camera.camera_to_world[0, :3, 1] @ torch.tensor(up)).item() > 0.9
    frames = SplatRenderer(splats).render(camera.resized(160, 120))
    assert frames.alpha.mean() > 0.05
    assert frames.depth[frames.depth > 0].median() > 0.5


def test_the_first_view_is_not_from_inside_a_floater():
    splats = slab(UPS["COLMAP"])
    first = overview(splats, SplatRenderer(splats))
    blocked = slab(UPS["COLMAP"], first.centers.tolist())
    camera = overview(blocked, SplatRenderer(blocked))
    assert (camera.centers - first.centers).norm() > 0.5
    assert SplatRenderer(blocked).render(camera.resized(160, 120)).depth.max() > 0.5
