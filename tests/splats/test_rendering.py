# SPDX-License-Identifier: Apache-2.0
import torch
from toy import arc_cameras

from harmonizer_ns.splats.model import base_colors, chosen, seed_splats
from harmonizer_ns.splats.rendering import SplatRenderer, rasterize


def some_splats(degree=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    splats = seed_splats(torch.rand(300, 3, generator=g) - 0.5, torch.rand(300, 3, generator=g), degree, opacity=0.6)
    return splats | {"shN": 0.3 * torch.randn(splats["shN"].shape, generator=g)}


def test_all_degrees_are_shown_unless_fewer_are_asked_for():
    splats, camera = some_splats(), arc_cameras(1, 48, 36)
    whole = SplatRenderer(splats).render(camera).rgb
    assert torch.equal(SplatRenderer(splats, degree=2).render(camera).rgb, whole)
    flat = SplatRenderer(splats, degree=0).render(camera).rgb
    assert (flat - whole).abs().max() > 0.01
    plain = splats | {"shN": splats["shN"][:, :0]}
    assert torch.equal(SplatRenderer(plain).render(camera).rgb, flat)
    shown = rasterize(splats, camera, None, colors=base_colors(splats)).rgb.clamp(0, 1)
    torch.testing.assert_close(shown, flat)


def test_depth_is_known_where_the_opacity_says_so():
    splats, camera = some_splats(), arc_cameras(1, 48, 36)
    every, sure = (SplatRenderer(splats, min_alpha=least).render(camera) for least in (1e-3, 0.5))
    assert torch.equal(every.depth > 0, every.alpha > 1e-3)
    assert torch.equal(sure.depth, torch.where(sure.alpha > 0.5, every.depth, 0.0))
    assert (sure.depth > 0).sum() < (every.depth > 0).sum()


def test_some_gaussians_alone():
    splats, camera = some_splats(), arc_cameras(1, 48, 36)
    left = splats["means"][:, 0] < 0
    halves = [SplatRenderer(chosen(splats, rows)).render(camera).alpha for rows in (left, ~left)]
    both = 1 - (1 - halves[0]) * (1 - halves[1])
    torch.testing.assert_close(SplatRenderer(splats).render(camera).alpha, both, atol=2e-3, rtol=0)
