# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import (
    backproject,
    backward_warp,
    inverse_intrinsics,
    median_depth,
    pixel_grid,
    project,
    reproject,
)


def camera(x=0.0, y=0.0, z=0.0, yaw=0.0, width=24, height=16, focal=20.0):
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]], dtype=torch.float32
    )
    pose[:3, 3] = torch.tensor([x, y, z])
    K = torch.tensor([[focal, 0, width / 2 + 0.7], [0, focal * 1.1, height / 2 - 0.3], [0, 0, 1]])
    return Cameras(pose[None], K[None], width, height)


def frames(cam, depth, seed=0):
    rgb = torch.rand(1, 3, cam.height, cam.width, generator=torch.Generator().manual_seed(seed))
    return Frames(rgb, torch.ones_like(depth), depth, cam)


def slow_warp(source, depth, cam, tolerance):
    """One pixel at a time, straight from the definition."""
    height, width = depth.shape[-2:]
    hs, ws = source.rgb.shape[-2:]
    rgb, valid = torch.zeros(3, height, width), torch.zeros(height, width)
    to_source = torch.linalg.inv(source.cameras.camera_to_world[0].double())
    K, Ks = cam.intrinsics[0].double(), source.cameras.intrinsics[0].double()
    for i in range(height):
        for j in range(width):
            d = depth[0, 0, i, j].double()
            if d <= 0:
                continue
            local = d * torch.linalg.inv(K) @ torch.tensor([j + 0.5, i + 0.5, 1.0], dtype=torch.float64)
            world = cam.camera_to_world[0].double() @ torch.cat([local, local.new_ones(1)])
            there = (to_source @ world)[:3]
            if there[2] <= 0:
                continue
            x, y = ((Ks @ there)[:2] / there[2]).tolist()
            if not (0 <= x <= ws and 0 <= y <= hs):
                continue
            colour, z, known = torch.zeros(3), 0.0, 0.0
            for v, wy in _taps(y, hs):
                for u, wx in _taps(x, ws):
                    colour += wx * wy * source.rgb[0, :, v, u]
                    here = source.depth[0, 0, v, u].item()
                    z += wx * wy * here
                    known += wx * wy * (here > 0)
            rgb[:, i, j] = colour
            valid[i, j] = (
                math.exp(-(((there[2].item() - z / known) / (tolerance * there[2].item())) ** 2)) if known else 1.0
            )
    return rgb, valid


def _taps(x, size):
    low = math.floor(x - 0.5)
    part = x - 0.5 - low
    return [(min(max(low, 0), size - 1), 1 - part), (min(max(low + 1, 0), size - 1), part)]


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_one_pixel_at_a_time(seed):
    generator = torch.Generator().manual_seed(seed)
    target = camera(0.1, -0.05, 0.2, yaw=0.1)
    source_camera = camera(-0.2, 0.1, 0.0, yaw=-0.15, width=18, height=20, focal=14.0)
    depth = 2 + 0.2 * torch.rand(1, 1, 16, 24, generator=generator)
    depth[..., :3, :5] = 0
    source_depth = 2.1 + 0.1 * torch.rand(1, 1, 20, 18, generator=generator)
    source_depth[..., 6:11, 7:12] = 0
    source = frames(source_camera, source_depth, seed)
    warped = backward_warp(source, depth, target, tolerance=0.05)
    rgb, valid = slow_warp(source, depth, target, tolerance=0.05)
    assert torch.allclose(warped.rgb[0], rgb, atol=1e-4)
    assert torch.allclose(warped.valid[0, 0], valid, atol=1e-3)
    assert 0.2 < valid.mean() < 0.95  # visible, occluded and outside pixels all occur


def test_identity_warp_returns_the_image():
    cam = camera(0.3, yaw=0.4)
    depth = 1 + torch.rand(1, 1, 16, 24)
    source = frames(cam, depth)
    warped = backward_warp(source, depth, cam)
    assert torch.allclose(warped.rgb, source.rgb, atol=1e-3)
    assert warped.valid.min() > 0.99


def test_nothing_is_valid_without_target_depth():
    cam = camera()
    source = frames(cam, torch.ones(1, 1, 16, 24))
    warped = backward_warp(source, torch.zeros(1, 1, 16, 24), cam)
    assert warped.valid.max() == 0
    assert warped.rgb.abs().max() == 0


def test_infinite_depth_and_a_source_behind_give_no_nan():
    source = frames(camera(yaw=math.pi), torch.ones(1, 1, 16, 24))
    depth = torch.full((1, 1, 16, 24), 2.0)
    depth[..., 0, 0] = torch.inf
    warped = backward_warp(source, depth, camera())
    assert torch.isfinite(warped.rgb).all()
    assert warped.valid.max() == 0


def test_source_without_depth_is_believed():
    source = frames(camera(0.1), torch.zeros(1, 1, 16, 24))
    warped = backward_warp(source, torch.full((1, 1, 16, 24), 3.0), camera())
    assert warped.valid[..., 8, 12] == 1


def test_occluded_and_floating_surfaces_are_not_valid():
    depth = torch.full((1, 1, 16, 24), 2.0)
    for wrong in (1.5, 3.0):
        source = frames(camera(), torch.full((1, 1, 16, 24), wrong))
        assert backward_warp(source, depth, camera()).valid.max() < 1e-6


def test_scene_scale_does_not_matter():
    target, source_camera = camera(0.1), camera(-0.1, yaw=0.05)
    depth = 2 + torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(3))
    source = frames(source_camera, depth)
    scale = torch.tensor([[1, 1, 1, 64.0], [1, 1, 1, 64], [1, 1, 1, 64], [1, 1, 1, 1]])

    def scaled(c):
        return Cameras(c.camera_to_world * scale, c.intrinsics, c.width, c.height)

    small = backward_warp(source, depth, target)
    large = backward_warp(frames(scaled(source_camera), depth * 64), depth * 64, scaled(target))
    assert torch.allclose(small.valid, large.valid, atol=1e-5)
    assert torch.allclose(small.rgb, large.rgb, atol=1e-5)


def test_project_undoes_backproject():
    cam = camera(0.3, -0.2, 0.5, yaw=0.7)
    depth = 1 + torch.rand(1, 1, 16, 24)
    pixels, z = project(backproject(depth, cam), cam)
    assert torch.allclose(pixels[0], pixel_grid(24, 16), atol=1e-3)
    assert torch.allclose(z, depth[:, 0], atol=1e-5)


def test_number_of_sources_must_match():
    source = frames(camera(), torch.ones(1, 1, 16, 24))
    with pytest.raises(ValueError, match="2 depths"):
        backward_warp(source, torch.ones(2, 1, 16, 24), camera())


def test_reprojection_is_projection_of_the_backprojection():
    here, there = camera(0.2, 0.1, -0.3, 0.2), camera(-0.4, 0.0, 0.5, -0.3, 40, 30, 31.0)
    depth = 3 + torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    pixels, z = reproject(depth, here, there)
    wanted_pixels, wanted_z = project(backproject(depth, here), there)
    torch.testing.assert_close(pixels, wanted_pixels, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(z, wanted_z, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_of_intrinsics_is_torchs_own_to_the_last_bit(dtype):
    focal, center = 20 + 1500 * torch.rand(300, 2, dtype=dtype), 2000 * torch.rand(300, 2, dtype=dtype)
    intrinsics = torch.diag_embed(torch.cat([focal, torch.ones(300, 1, dtype=dtype)], dim=1))
    intrinsics[:, :2, 2] = center
    assert torch.equal(inverse_intrinsics(intrinsics), torch.linalg.inv(intrinsics))


def test_a_median_of_depth_is_exact_in_small_images_and_close_in_large_ones():
    small = torch.rand(3, 1, 90, 160) * (torch.rand(3, 1, 90, 160) > 0.3)
    small[2] = 0
    found = median_depth(small)
    assert found[:2].tolist() == [image[image > 0].median().item() for image in small[:2]]
    assert found[2].isnan()
    large = torch.rand(1, 1, 1080, 1920) + 1
    assert median_depth(large).item() == pytest.approx(large.median().item(), rel=0.01)
