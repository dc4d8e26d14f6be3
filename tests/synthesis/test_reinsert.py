# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from toy import arc_cameras, capture_of

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.model import base_harmonics
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.masks import MaskConfig
from harmonizer_ns.synthesis.streams.reinsert import (
    ReinsertSettings,
    compose,
    lift,
    make_reinsert,
    select,
    visible_share,
    with_shadow,
)
from harmonizer_ns.synthesis.streams.runs import RunSettings, draw_clips, draw_run
from harmonizer_ns.synthesis.streams.solids import find_objects
from harmonizer_ns.types import Frames

RUN = RunSettings(clips=1, photos=6, steps=60, gaussians=1500)
SETTINGS = ReinsertSettings(run=RUN, masks=MaskConfig(share=(0.02, 0.3)))


def table() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A grey wall, a dark shadow on it and a red ball before it; which Gaussians are the ball's."""
    generator = torch.Generator().manual_seed(0)
    xs, ys = torch.meshgrid(torch.linspace(-3, 3, 30), torch.linspace(-2.2, 2.2, 22), indexing="ij")
    wall = torch.stack([xs.flatten(), ys.flatten(), torch.full_like(xs.flatten(), 1.5)], 1)
    ball = 0.5 * F.normalize(torch.randn(200, 3, generator=generator), dim=-1)
    wall_color = torch.full((len(wall), 3), 0.7) + 0.05 * torch.randn(len(wall), 3, generator=generator)
    shadow = ((wall - torch.tensor([0.1, 0.8, 1.5])) / torch.tensor([1.0, 0.5, 1])).norm(dim=-1) < 1
    wall_color[shadow] = 0.3
    means = torch.cat([wall, ball])
    own = torch.arange(len(means)) >= len(wall)
    scene = {
        "means": means,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(len(means), 1),
        "scales": torch.where(own, 0.09, 0.16)[:, None].repeat(1, 3),
        "opacities": torch.full((len(means),), 0.95),
        "colors": torch.cat([wall_color.clamp(0, 1), torch.tensor([0.8, 0.1, 0.1]).repeat(200, 1)]),
    }
    return scene, own


def renderer_of(scene: dict[str, torch.Tensor]) -> SplatRenderer:
    splats = {
        "means": scene["means"],
        "quats": scene["quats"],
        "scales": scene["scales"].log(),
        "opacities": scene["opacities"].logit(),
        "sh0": base_harmonics(scene["colors"]),
        "shN": torch.zeros(len(scene["means"]), 3, 3),
    }
    return SplatRenderer(splats, min_alpha=0.3)


@pytest.fixture(scope="module")
def capture() -> Capture:
    scene, _ = table()
    cameras = arc_cameras(8, 80, 60, span=0.5)
    photos = [renderer_of(scene).render(camera) for camera in cameras]
    names = tuple(f"images/{i}.png" for i in range(8))
    return replace(capture_of("table", names, photos, scene["means"]), colors=scene["colors"])


@pytest.fixture(scope="module")
def made(capture: Capture) -> list[Made]:
    return list(make_reinsert(capture, SETTINGS, 1))


def test_the_ball_stands_out(capture):
    scene, own = table()
    cameras = arc_cameras(8, 80, 60, span=0.5)[:5]
    renders = renderer_of(scene).render(cameras)
    masks = next(iter(find_objects(renders, (0.02, 0.3), 0)))
    truth = visible_share(renderer_of(scene), own, cameras) > 0.5
    overlap = ((masks > 0) & truth).sum() / ((masks > 0) | truth).sum()
    assert overlap > 0.8


def test_masks_lift_to_the_gaussians_that_they_show():
    scene, own = table()
    renderer, cameras = renderer_of(scene), arc_cameras(8, 80, 60, span=0.5)[:5]
    renders = renderer.render(cameras)
    masks = (visible_share(renderer, own, cameras) > 0.5).float()
    lifted = lift(renderer.splats, renders, masks)
    assert (lifted & own).sum() > 0.9 * own.sum()
    assert (lifted & ~own).sum() < 0.1 * own.sum()


def test_what_is_cut_and_joined_again_renders_as_before():
    scene, own = table()
    renderer, camera = renderer_of(scene), arc_cameras(3, 80, 60)[1]
    asset, rest = (select(renderer, chosen).render(camera) for chosen in (own, ~own))
    both = compose(asset, visible_share(renderer, own, camera), rest)
    assert (both.rgb - renderer.render(camera).rgb).abs().mean() < 0.005
    assert visible_share(renderer, torch.ones_like(own), camera).min() > 0.9
    assert visible_share(renderer, torch.zeros_like(own), camera).max() == 0


def test_masks_grow_most_at_the_foot():
    mask = torch.zeros(1, 60, 80)
    mask[..., 20:40, 30:50] = 1
    grown = with_shadow(mask, ReinsertSettings(margin=0.1, shadow=0.4))[0] > 0
    rows, columns = grown.any(1).nonzero(), grown.any(0).nonzero()
    assert (rows[0], rows[-1]) == (18, 47)
    assert (columns[0], columns[-1]) == (22, 57)
    assert torch.equal(with_shadow(mask, ReinsertSettings(margin=0.0, shadow=0.0)), mask)
    assert not with_shadow(torch.zeros_like(mask), SETTINGS).any()


def test_the_shadow_is_gone_and_the_ball_stays(made):
    """The photo's dark shadow on the wall is lighter where the mask covers it; the ball stays red."""
    for one in made:
        target, image = one.target, one.image
        shadow = (target.amax(0) < 0.45) & (one.mask[0] == 1)
        ball = (target[0] > 0.6) & (target[1] < 0.2) & (one.mask[0] == 1)
        assert shadow.sum() > 40
        assert ball.sum() > 100
        assert image[:, shadow].mean() > target[:, shadow].mean() + 0.1
        assert (image[:, ball] - target[:, ball]).abs().mean() < 0.12


def test_only_the_mask_is_changed_and_parameters_last_over_the_clip(made):
    assert len(made) == RUN.frames
    for one in made:
        outside = (one.mask == 0).expand(3, -1, -1)
        assert outside.any()
        assert torch.equal(one.image[outside], one.target[outside])
        assert one.parameters == made[0].parameters


def test_equal_seeds_give_equal_pairs(capture, made):
    again = list(make_reinsert(capture, SETTINGS, 1))
    assert all(torch.equal(a.image, b.image) for a, b in zip(made, again, strict=True))


def test_what_cannot_be_done_is_told(capture):
    few = capture.part(range(3))
    with pytest.raises(InputError, match="3 photos, a clip needs 5"):
        list(make_reinsert(few, SETTINGS, 0))
    nothing = replace(SETTINGS, masks=MaskConfig(share=(0.9, 0.95)), run=replace(RUN, steps=5))
    with pytest.raises(InputError, match=r"no object stands out.*masks"):
        list(make_reinsert(capture, nothing, 0))
    with pytest.raises(ValueError, match="fill_weight"):
        ReinsertSettings(fill_weight=0.0)


def test_clips_do_not_overlap(capture):
    for seed in range(8):
        run = draw_run(capture, replace(RUN, photos=7, frames=3), seed)
        clips = draw_clips(len(run), 3, seed)
        indices = [i for clip in clips for i in clip]
        assert len(indices) == len(set(indices)) == 6
        assert max(indices) < len(run) == 7


def test_pixels_without_weight_are_not_learnt(capture):
    """Half of every photo is painted white there: the fit must not see it; weights of 1 are as good as none."""
    photos = [capture.frames(i) for i in range(4)]
    white = [Frames(torch.where(HALF, 1.0, p.rgb), p.alpha, p.depth, p.cameras) for p in photos]
    weights = [1 - HALF.float()[None, None] for _ in photos]
    fitter = SplatReconstructor(SplatConfig(steps=30, max_gaussians=900))
    plain, masked = (fitter.fit(p, capture.points, capture.colors, w) for p, w in ((white, None), (white, weights)))
    camera = photos[1].cameras
    assert plain.render(camera).rgb[..., HALF].mean() > masked.render(camera).rgb[..., HALF].mean() + 0.05
    full = [torch.ones_like(w) for w in weights]
    seen = fitter.fit(photos, capture.points, capture.colors, full).render(camera).rgb
    torch.testing.assert_close(seen, fitter.fit(photos, capture.points, capture.colors).render(camera).rgb)
    with pytest.raises(ValueError, match="weights"):
        fitter.fit(photos, capture.points, capture.colors, weights[:2])


HALF = torch.zeros(60, 80, dtype=torch.bool)
HALF[:, 50:] = True
