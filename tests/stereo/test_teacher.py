# SPDX-License-Identifier: Apache-2.0
"""The photos' depth teaches: the loss does what its docstring says, on images and on rays, and pulls the right way."""

from dataclasses import replace

import pytest
import torch
from toy import arc_cameras

from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.teacher import DepthTeacher
from harmonizer_ns.warp import backproject

SIZES = (12, 9), (7, 5)


@pytest.fixture
def maps() -> list[DepthMap]:
    """Two photos of different sizes; some pixels have no depth."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for camera, (width, height) in zip(arc_cameras(2, 24, 18), SIZES, strict=True):
        depth = 2 + torch.rand(height, width, generator=generator)
        confidence = torch.rand(height, width, generator=generator)
        known = torch.rand(height, width, generator=generator) > 0.3
        found.append(DepthMap(depth * known, confidence * known, camera.resized(width, height)))
    return found


def huber(error: float) -> float:
    return error**2 / 0.04 if abs(error) < 0.02 else abs(error) - 0.01


def test_the_loss_is_the_mean_of_weighed_robust_differences_of_disparity(maps):
    known = sorted(z for m in maps for z in m.depth.flatten().tolist() if z > 0)
    median = known[(len(known) - 1) // 2]
    for photo, m in enumerate(maps):
        render = 1.5 + torch.rand(1, 2 * m.depth.shape[0], 2 * m.depth.shape[1])
        render[0, 0, 0] = 0
        total = 0.0
        for y in range(render.shape[1]):
            for x in range(render.shape[2]):
                z, own, sure = (
                    render[0, y, x].item(),
                    m.depth[y // 2, x // 2].item(),
                    m.confidence[y // 2, x // 2].item(),
                )
                if z > 0 and own > 0:
                    total += sure * huber(median * (1 / z - 1 / own))
        expected = 0.3 * 0.1**0.25 * total / render.numel()
        assert DepthTeacher(maps, 0.3, 100).on_image(render, photo, 25).item() == pytest.approx(expected, rel=1e-4)


def test_rays_and_images_are_compared_alike(maps):
    teacher = DepthTeacher(maps, 1.0, 10)
    for photo, m in enumerate(maps):
        depth = 1.5 + torch.rand(1, *m.depth.shape)
        points = backproject(depth[None], m.camera)[0].reshape(-1, 3) - m.camera.centers
        distance = points.norm(dim=-1)
        found = teacher.on_rays(distance, points / distance[:, None], torch.full((len(points),), photo), 3)
        torch.testing.assert_close(found, teacher.on_image(depth, photo, 3))


def test_rays_beside_a_photo_or_behind_it_are_left_alone(maps):
    camera = maps[0].camera
    forward = camera.camera_to_world[0, :3, 2]
    aside = torch.nn.functional.normalize(forward + 5 * camera.camera_to_world[0, :3, 0], dim=0)
    rays, photos = torch.stack([-forward, aside]), torch.zeros(2, dtype=torch.long)
    assert DepthTeacher(maps, 1.0, 10).on_rays(torch.ones(2), rays, photos, 0) == 0


def test_depth_is_pulled_to_the_photos_where_that_is_known_and_nowhere_else(maps):
    teacher, m = DepthTeacher(maps, 1.0, 10), maps[0]
    for factor in (0.7, 0.99, 1.01, 1.5):
        depth = (torch.where(m.depth > 0, m.depth, 2.5) * factor)[None].requires_grad_()
        teacher.on_image(depth, 0, 0).backward()
        assert (depth.grad[0][m.depth == 0] == 0).all()
        pull = -depth.grad[0][m.confidence > 0]
        assert (pull > 0).all() if factor < 1 else (pull < 0).all()


def test_scale_of_the_scene_does_not_matter(maps):
    depth = 1.5 + torch.rand(1, *maps[0].depth.shape)
    larger = [replace(m, depth=40 * m.depth) for m in maps]
    losses = [DepthTeacher(each, 1.0, 10).on_image(z, 0, 0) for each, z in ((maps, depth), (larger, 40 * depth))]
    torch.testing.assert_close(*losses)


def test_the_pull_fades_to_a_tenth(maps):
    depth = torch.full((1, 9, 12), 1.5)
    losses = [DepthTeacher(maps, 1.0, 10).on_image(depth, 0, step).item() for step in (0, 5, 10, 11)]
    assert losses[1:] == pytest.approx([losses[0] * share for share in (0.1**0.5, 0.1, 0.1)])


def test_photos_without_any_depth_teach_nothing(maps):
    nothing = [replace(m, depth=0 * m.depth, confidence=0 * m.confidence) for m in maps]
    depth = torch.full((1, 9, 12), 1.5, requires_grad=True)
    loss = DepthTeacher(nothing, 1.0, 10).on_image(depth, 0, 0)
    loss.backward()
    assert loss == 0
    assert not depth.grad.any()
