# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import torch
from solids import off_surface

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.images import to_float
from harmonizer_ns.raster import set_num_threads
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.fusion import fuse
from harmonizer_ns.stereo.geometry import look_at
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.types import Cameras

EVERY = StereoSettings(seeds=1e6)


def test_seeds_lie_on_the_surfaces_and_have_their_colours(photos, maps, room):
    seeds = fuse(photos, maps, EVERY)
    assert len(seeds) > 5 * len(photos.points)
    assert (off_surface(seeds.points, room) < 0.01).float().mean() > 0.97
    assert (room.color(seeds.points.double()) - seeds.colors).abs().mean() < 0.07


def test_a_surface_that_many_photos_show_gets_its_points_once(photos, maps):
    pixels = sum(int((m.confidence >= EVERY.confidence).sum()) for m in maps)
    assert len(fuse(photos, maps, EVERY)) < 0.5 * pixels


def test_the_number_of_seeds_is_limited(photos, maps):
    seeds = fuse(photos, maps, StereoSettings(seeds=5))
    most = int(5 * (6 * 72 * 96) ** 0.5)
    assert 0.9 * most < len(seeds) <= most
    everything = fuse(photos, maps, EVERY)
    assert {tuple(p) for p in seeds.points.tolist()} <= {tuple(p) for p in everything.points.tolist()}


def test_of_too_many_seeds_those_are_kept_that_show_detail():
    """One photo, whose left half is smooth: there are as many pixels on either side, not as many seeds."""
    half = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    photo = torch.cat([torch.full_like(half, 128), half], dim=2)
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[64.0, 0, 32], [0, 64.0, 16], [0, 0, 1]]]), 64, 32)
    capture = Capture("one", ("a",), [camera], torch.zeros(0, 3), torch.zeros(0, 3), lambda index: (photo, None))
    depth = DepthMap(torch.ones(32, 64), torch.ones(32, 64), camera)
    seeds = fuse(capture, [depth], StereoSettings(seeds=4))
    left = int((seeds.points[:, 0] < 0).sum())
    assert 0 < left < 0.3 * len(seeds)
    assert len(fuse(capture, [depth], EVERY)) == 32 * 64


def test_normals_look_at_the_photos(photos, maps):
    seeds = fuse(photos, maps)
    towards = (seeds.normals * (torch.tensor([0.0, 0.0, -3.0]) - seeds.points)).sum(-1)
    known = seeds.normals.norm(dim=-1) > 0
    assert known.float().mean() > 0.8
    assert (towards[known] > 0).float().mean() > 0.99


def test_neither_threads_nor_the_order_of_photos_change_a_bit(photos):
    first = look_at(photos, StereoSettings()).seeds
    set_num_threads(2)
    second = look_at(photos.part([5, 2, 0, 4, 1, 3]), StereoSettings()).seeds
    for name in ("points", "colors", "normals"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_one_photo_alone_gives_no_seeds(photos):
    assert len(look_at(photos.part([2]), StereoSettings()).seeds) == 0


def test_colours_are_the_mean_of_the_photos_that_agree(photos, maps):
    one = fuse(photos, [replace(m, witnesses=()) for m in maps], EVERY)
    first = maps[0].confidence >= EVERY.confidence
    assert torch.allclose(one.colors[: int(first.sum())], to_float(photos.photo(0)).permute(1, 2, 0)[first])
