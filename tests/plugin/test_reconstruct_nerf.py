# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy import arc_cameras

from harmonizer_ns.plugin.reconstruct import NerfConfig, NerfReconstructor, Pixels, unit_box
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import backproject

CONFIG = NerfConfig(steps=80, rays=256)
NO_POINTS = torch.zeros(0, 3)


@pytest.fixture(scope="module")
def wall() -> Frames:
    """A textured wall at z = 4, seen by eight cameras."""
    pose = torch.eye(4).repeat(8, 1, 1)
    pose[:, 0, 3], pose[:, 1, 3] = torch.linspace(-1, 1, 8), torch.tensor([0.3, -0.3] * 4)
    intrinsics = torch.tensor([[40.0, 0, 20], [0, 40.0, 15], [0, 0, 1]]).repeat(8, 1, 1)
    depth, cameras = torch.full((8, 1, 30, 40), 4.0), Cameras(pose, intrinsics, 40, 30)
    x, y, _ = backproject(depth, cameras).unbind(-1)
    rgb = torch.stack([0.5 + 0.4 * torch.sin(a * x + b * y) for a, b in ((3, 1), (1, 4), (2, -2))], dim=1)
    return Frames(rgb, torch.ones_like(depth), depth, cameras)


@pytest.fixture(scope="module")
def photos(wall) -> list[Frames]:
    return [replace(photo, depth=torch.zeros_like(photo.depth)) for photo in wall]


@pytest.fixture(scope="module")
def points(wall) -> torch.Tensor:
    return backproject(wall.depth, wall.cameras)[:, ::5, ::5].reshape(-1, 3)


def moved(cameras: Cameras, scale: float, shift: float) -> Cameras:
    poses = cameras.camera_to_world.clone()
    poses[:, :3, 3] = poses[:, :3, 3] * scale + shift
    return replace(cameras, camera_to_world=poses)


def test_a_short_fit_begins_to_look_like_the_photos_in_the_scene_s_unit(wall, photos, points):
    renderer = NerfReconstructor(CONFIG).fit(photos, points, points)
    frames = renderer.render(wall.cameras[:2])
    assert (frames.rgb - wall.rgb[:2]).square().mean() < 0.5 * wall.rgb.var()
    assert frames.alpha.mean() > 0.9
    assert 2.0 < frames.depth.median() < 6.0  # of 4
    assert torch.equal(frames.cameras.camera_to_world, wall.cameras[:2].camera_to_world)


def test_a_larger_unit_of_length_changes_the_depth_alone(photos, points):
    large = [replace(photo, cameras=moved(photo.cameras, 64.0, 128.0)) for photo in photos]
    few = NerfReconstructor(replace(CONFIG, steps=2))
    first = few.fit(photos, points, points).render(photos[0].cameras)
    second = few.fit(large, points * 64 + 128, points).render(large[0].cameras)
    torch.testing.assert_close(second.rgb, first.rgb, atol=2e-2, rtol=0)
    torch.testing.assert_close(second.depth / 64, first.depth, atol=0.2, rtol=0.05)


def test_equal_seeds_give_equal_fits_and_leave_the_global_state_alone(photos):
    def fit(seed: int) -> torch.Tensor:
        config = replace(CONFIG, steps=3, seed=seed)
        return NerfReconstructor(config).fit(photos, NO_POINTS, NO_POINTS).render(photos[0].cameras).rgb

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = fit(1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(fit(1), first)
    assert not torch.equal(fit(2), first)


def test_drawn_pixels_have_their_photo_s_colour_whatever_its_size(photos):
    small = Cameras(photos[1].cameras.camera_to_world, photos[1].cameras.intrinsics, 17, 9)
    mixed = [
        photos[0],
        Frames(torch.rand(1, 3, 9, 17), torch.ones(1, 1, 9, 17), torch.zeros(1, 1, 9, 17), small),
        photos[2],
    ]
    photo, places, colors = Pixels(mixed).draw(2000)
    assert set(photo[:, 0].tolist()) == {0, 1, 2}
    for index, (y, x), color in zip(photo[:, 0].tolist(), places.tolist(), colors, strict=True):
        assert torch.equal(mixed[index].rgb[0, :, int(y), int(x)], color)
        assert (y % 1, x % 1) == (0.5, 0.5)


def test_the_box_holds_the_cameras_and_half_of_the_points(photos, points):
    cameras = arc_cameras(5, 8, 6)
    box = unit_box(moved(cameras, 30.0, 5.0), points * 30 + 5)
    assert box.points(moved(cameras, 30.0, 5.0).centers).abs().max() <= 1 + 1e-5
    inside = box.points(points * 30 + 5).abs().amax(1)
    assert (inside <= 1 + 1e-5).float().mean() >= 0.5


def test_one_place_and_no_photos(photos):
    box = unit_box(photos[0].cameras, NO_POINTS)
    assert box.scale == 1
    with pytest.raises(ValueError, match="photos"):
        NerfReconstructor(CONFIG).fit([], NO_POINTS, NO_POINTS)


@pytest.mark.parametrize("change", [{"steps": 0}, {"rays": 0}, {"rate": 0.0}])
def test_bad_settings_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)
