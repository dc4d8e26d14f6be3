# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.nn.functional import normalize

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import quaternion_to_rotation
from harmonizer_ns.splats.model import from_splatfacto, neighbour_distance, seed_splats, to_splatfacto, turned_to
from harmonizer_ns.splats.seeding import choose_seeds
from harmonizer_ns.stereo.fusion import Seeds


def some(count: int, seed: int = 0) -> Seeds:
    generator = torch.Generator().manual_seed(seed)
    points, colors, normals = (torch.rand(count, 3, generator=generator) - 0.5 for _ in range(3))
    return Seeds(points, colors + 0.5, normalize(normals, dim=-1))


@pytest.mark.parametrize("turn", [torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0]))])
def test_the_third_axis_turns_to_the_normal(turn):
    axis, tilt = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([3e-4, 2e-4, 1.0])
    normals = torch.cat([some(200).normals, torch.stack([axis, normalize(tilt, dim=0)])]) @ turn
    turned = quaternion_to_rotation(turned_to(normals))
    torch.testing.assert_close(turned[:, :, 2], normals, atol=5e-4, rtol=0)  # float32 near -z
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand(202, 3, 3), atol=1e-5, rtol=0)


def test_only_points_with_normals_become_flat():
    seeds = some(60)
    seeds.normals[:20] = 0
    quats = normalize(torch.rand(60, 4), dim=-1)
    splats = seed_splats(seeds.points, seeds.colors, 1, scale=0.7, quats=quats, normals=seeds.normals)
    width = (0.7 * neighbour_distance(seeds.points)).log()
    torch.testing.assert_close(splats["scales"][:20], width[:20, None].expand(20, 3))
    torch.testing.assert_close(splats["scales"][20:, :2], width[20:, None].expand(40, 2))
    assert (splats["scales"][20:, 2] < width[20:] + math.log(0.5)).all()
    assert torch.equal(splats["quats"][:20], quats[:20])
    flat = quaternion_to_rotation(splats["quats"][20:])[:, :, 2]
    torch.testing.assert_close(flat, seeds.normals[20:], atol=1e-5, rtol=0)


def test_splats_pass_through_splatfacto_s_names():
    seeds = some(10)
    splats = seed_splats(seeds.points, seeds.colors, 2, normals=seeds.normals)
    back = from_splatfacto(to_splatfacto(splats))
    assert back.keys() == splats.keys()
    assert all(torch.equal(back[name], splats[name]) for name in splats)


def capture(points: int) -> Capture:
    own = some(points, seed=1)
    return Capture("here", (), [], own.points, own.colors, lambda i: pytest.fail("read"))


def test_seeds_are_the_capture_s_or_those_of_its_photos_or_both():
    scene, found, said = capture(7), some(9), []
    assert torch.equal(choose_seeds(scene, found, "capture", said.append).points, scene.points)
    assert torch.equal(choose_seeds(scene, found, "dense", said.append).points, found.points)
    both = choose_seeds(scene, found, "auto", said.append)
    assert torch.equal(both.points, torch.cat([scene.points, found.points]))
    assert torch.equal(both.colors, torch.cat([scene.colors, found.colors]))
    assert torch.equal(both.normals, torch.cat([torch.zeros(7, 3), found.normals]))
    assert not said


def test_photos_that_match_too_little_are_told():
    scene, said = capture(7), []
    assert torch.equal(choose_seeds(scene, some(3), "auto", said.append).points, scene.points)
    assert len(said) == 1
    assert "3 seed points" in said[0]
    with pytest.raises(InputError, match="'auto' or 'capture'"):
        choose_seeds(scene, some(3), "dense", said.append)
