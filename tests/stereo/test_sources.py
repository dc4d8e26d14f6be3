# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
import torch
from solids import around
from toy import look_at

from harmonizer_ns.stereo import sources
from harmonizer_ns.stereo.sources import _Tracks, angle_scores, find_companions, lattice
from harmonizer_ns.types import Cameras, cat_cameras
from harmonizer_ns.warp import project


def on_an_arc(degrees):
    """Cameras that look at the origin from 4 units away."""
    intrinsics = torch.tensor([[[100.0, 0.0, 48.0], [0.0, 100.0, 36.0], [0.0, 0.0, 1.0]]])
    angles = [math.radians(angle) for angle in degrees]
    eyes = [4 * torch.tensor([math.sin(a), 0.0, -math.cos(a)]) for a in angles]
    return [Cameras(look_at(eye, torch.zeros(3))[None], intrinsics, 96, 72) for eye in eyes]


def cloud(count=200):
    return 0.4 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def test_ten_degrees_are_best_and_two_to_thirty_allowed():
    scores = angle_scores(0, cat_cameras(on_an_arc([0, 1, 5, 10, 15, 25, 40])), torch.zeros(1, 3))[:, 0]
    assert scores[[0, 1, 6]].tolist() == [0, 0, 0]
    assert scores.argmax() == 3
    assert (scores[[2, 4, 5]] > 0).all()


def test_a_sharper_or_coarser_photo_counts_less():
    cameras = on_an_arc([0, 10, -10])
    cameras[2].camera_to_world[:, :3, 3] *= 0.5
    scores = angle_scores(0, cat_cameras(cameras), torch.zeros(1, 3))[:, 0]
    assert scores[2] < 0.6 * scores[1]


def test_the_best_photo_comes_first_and_all_depths_lie_in_the_range():
    cameras, points = on_an_arc([0, 1, 9, 28, 60]), cloud()
    found = find_companions(cameras, points, None, 4)
    assert found[0].others[0] == 2
    assert not {1, 4} & set(found[0].others)
    z = project(points[None], cameras[0])[1]
    assert ((z > found[0].near) & (z < found[0].far)).float().mean() > 0.99


def test_photos_that_stand_far_apart_have_to_do():
    cameras, points = on_an_arc([0, 40, 90]), cloud()
    assert [one and one.others for one in find_companions(cameras, points, None, 4)] == [(1,), (0, 2), (1,)]


def test_points_that_a_photo_does_not_show_are_not_shared():
    cameras, points = on_an_arc([0, 10, -10]), cloud()
    found = find_companions(cameras, points, [torch.arange(200), torch.arange(100), torch.arange(0)], 4)
    assert [one.others for one in found[:2]] == [(1,), (0,)]


def test_too_few_tracks_are_not_heeded():
    cameras, points = on_an_arc([0, 10, -10]), cloud()
    found = find_companions(cameras, points, [torch.arange(200), torch.arange(100), torch.arange(0)], 4)
    assert found[2] == find_companions(cameras, points, None, 4)[2]


def test_cameras_in_one_place_have_no_companions():
    cameras = on_an_arc([0, 10, 20])
    same = [replace(c, camera_to_world=cameras[0].camera_to_world) for c in cameras]
    assert find_companions(same, cloud(), None, 4) == [None] * 3


def test_without_points_there_is_a_lattice_before_the_cameras():
    cameras = around(5)
    found = find_companions(cameras, lattice(cameras), None, 4)
    assert all(one is not None and one.near < 2.0 < 4.0 < one.far for one in found)


def test_tracks_say_which_photos_show_a_point():
    seen = [torch.tensor([4, 0]), torch.tensor([], dtype=torch.long), torch.tensor([1, 4, 5])]
    expected = torch.zeros(3, 7, dtype=torch.bool)
    for photo, points in enumerate(seen):
        expected[photo, points] = True
    chosen = torch.tensor([5, 4, 6, 0])
    assert torch.equal(_Tracks(seen, 7).shown(chosen), expected[:, chosen])


@pytest.mark.parametrize("seen", [None, [torch.arange(i % 3, 200, 3) for i in range(30)]], ids=["cameras", "tracks"])
def test_among_many_photos_those_that_fit_are_found(monkeypatch, seen):
    cameras, points = on_an_arc(torch.linspace(0, 60, 30).tolist()), cloud()
    few = find_companions(cameras, points, seen, 4)
    monkeypatch.setattr(sources, "_CANDIDATES", 12)
    assert find_companions(cameras, points, seen, 4) == few
