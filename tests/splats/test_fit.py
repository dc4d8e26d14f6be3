# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harmonizer_ns.metrics import psnr
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.types import Cameras, Frames, Renderer
from harmonizer_ns.warp import backproject

CONFIG = SplatConfig(steps=120, max_gaussians=1200, seed=3)


def ball_photos(count: int = 7, width: int = 64, height: int = 48) -> list[Frames]:
    """A textured wall behind a ball of radius 0.6 at the origin, seen from an arc."""
    photos = []
    for angle in torch.linspace(-0.35, 0.35, count):
        c, s = angle.cos(), angle.sin()
        pose = torch.eye(4)
        pose[:3, :3] = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        pose[:3, 3] = pose[:3, :3] @ torch.tensor([0.0, 0.0, -3.0])
        intrinsics = torch.tensor([[[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]]])
        photos.append(shade(Cameras(pose[None], intrinsics, width, height)))
    return photos


def shade(camera: Cameras) -> Frames:
    origin = camera.centers[0]
    rays = backproject(torch.ones(1, 1, camera.height, camera.width), camera)[0] - origin
    a, b, c = rays.square().sum(-1), (rays * origin).sum(-1), origin.square().sum() - 0.6**2
    root = b.square() - a * c
    ball = root > 0
    depth = torch.where(ball, (-b - root.clamp(min=0).sqrt()) / a, (1.5 - origin[2]) / rays[..., 2])
    x, y, z = (origin + rays * depth[..., None]).unbind(-1)
    wave = torch.stack([0.5 + 0.4 * torch.sin(3 * x + k + 2 * y * z) for k in range(3)])
    rgb = torch.where(ball, wave, 0.5 + 0.3 * torch.sin(4 * x + y)[None] * torch.tensor([1.0, -1, 0.5])[:, None, None])
    return Frames(rgb[None], torch.ones(1, 1, *depth.shape), depth[None, None], camera)


def seeds(photos: list[Frames]) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.cat([backproject(p.depth, p.cameras)[0, ::5, ::5].reshape(-1, 3) for p in photos[::3]])
    colors = torch.cat([p.rgb[0, :, ::5, ::5].reshape(3, -1).T for p in photos[::3]])
    return points, colors


@pytest.fixture(scope="module")
def fitted() -> tuple[list[Frames], Renderer]:
    photos = ball_photos()
    return photos, SplatReconstructor(CONFIG).fit(photos[::2], *seeds(photos))


def test_a_view_that_was_not_fitted_is_predicted(fitted):
    photos, renderer = fitted
    for photo in photos[1::2]:
        assert psnr(renderer.render(photo.cameras).rgb, photo.rgb).item() > 24


def test_depth_is_z_depth_in_scene_units(fitted):
    photos, renderer = fitted
    render = renderer.render(photos[3].cameras)
    known = render.depth > 0
    relative = ((render.depth - photos[3].depth).abs() / photos[3].depth)[known]
    assert known.float().mean() > 0.95
    assert relative.median() < 0.03


def test_depth_is_zero_where_nothing_was_hit(fitted):
    photos, renderer = fitted
    away = replace(photos[0].cameras, camera_to_world=photos[0].cameras.camera_to_world @ torch.diag(
        torch.tensor([-1.0, 1.0, -1.0, 1.0])
    ))  # fmt: skip
    render = renderer.render(away)
    assert render.alpha.max() < 0.1
    assert render.depth.max() == 0


def test_a_batch_renders_as_its_members_do(fitted):
    photos, renderer = fitted
    from harmonizer_ns.types import cat_cameras

    batch = renderer.render(cat_cameras([photos[0].cameras, photos[5].cameras]))
    assert torch.equal(batch.rgb[1:], renderer.render(photos[5].cameras).rgb)
    assert not batch.rgb.requires_grad


def test_equal_seeds_give_equal_splats_and_the_global_generator_is_left_alone():
    photos = ball_photos(4, 32, 24)
    config = replace(CONFIG, steps=25)
    before = torch.get_rng_state()
    first, second = (SplatReconstructor(config).fit(photos, *seeds(photos)) for _ in range(2))
    other = SplatReconstructor(replace(config, seed=4)).fit(photos, *seeds(photos))
    assert torch.equal(torch.get_rng_state(), before)
    view = photos[1].cameras
    assert torch.equal(first.render(view).rgb, second.render(view).rgb)
    assert not torch.equal(first.render(view).rgb, other.render(view).rgb)


def test_more_steps_fit_better():
    photos = ball_photos(4, 48, 36)
    scores = []
    for steps in (10, 100):
        renderer = SplatReconstructor(replace(CONFIG, steps=steps)).fit(photos, *seeds(photos))
        scores.append(psnr(renderer.render(photos[0].cameras).rgb, photos[0].rgb).item())
    assert scores[1] > scores[0] + 3


@pytest.mark.parametrize("cap", [50, 300])
def test_the_number_of_gaussians_stays_near_the_cap(cap):
    photos = ball_photos(4, 48, 36)
    points, colors = seeds(photos)
    renderer = SplatReconstructor(replace(CONFIG, steps=60, max_gaussians=cap)).fit(photos, points, colors)
    count = len(renderer.splats["means"])
    assert count <= 1.05 * cap
    if cap > len(points):
        assert count > len(points)  # it did grow


def test_photos_of_different_sizes_fit_together():
    photos = [*ball_photos(2, 48, 36), *ball_photos(2, 33, 25)]
    renderer = SplatReconstructor(replace(CONFIG, steps=30)).fit(photos, *seeds(photos))
    assert renderer.render(photos[-1].cameras).rgb.shape == (1, 3, 25, 33)


def test_what_cannot_be_fitted_is_refused():
    photos = ball_photos(2, 32, 24)
    points, colors = seeds(photos)
    with pytest.raises(ValueError, match="0 photos"):
        SplatReconstructor(CONFIG).fit([], points, colors)
    with pytest.raises(ValueError, match="at least 4"):
        SplatReconstructor(CONFIG).fit(photos, points[:3], colors[:3])
    with pytest.raises(ValueError, match="colours"):
        SplatReconstructor(CONFIG).fit(photos, points, colors[:-1])
    with pytest.raises(ValueError, match="steps"):
        SplatConfig(steps=0)


@pytest.mark.gpu
def test_a_gpu_fits_as_well_as_the_cpu():
    photos = [photo.to("cuda") for photo in ball_photos()]
    points, colors = seeds(photos)
    renderer = SplatReconstructor(CONFIG).fit(photos[::2], points, colors)
    render = renderer.render(photos[3].cameras)
    assert render.rgb.is_cuda
    assert psnr(render.rgb, photos[3].rgb).item() > 24
