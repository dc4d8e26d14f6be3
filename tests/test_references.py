# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from plane_scene import PLANE, PlaneCapture, PlaneRenderer, look_at, plane_points, row_of_cameras

from harmonizer_ns.poses import rotation_angle
from harmonizer_ns.references import ReferenceSelector, cover_cameras, cover_images, covisibility, greedy_cover
from harmonizer_ns.warp import backward_warp


def selector(cameras, points, count=2, bytes_=False):
    return ReferenceSelector(PlaneCapture(cameras, points, bytes_), count)


def test_covisibility_beats_metres_and_radians():
    view = look_at((0, 0, 0), (0, 0, 4), focal=80.0)
    near = look_at((0.3, 0, 0), (2.0, 0, 4), focal=80.0)  # close by, slightly turned, and sees another part
    far = look_at((0, 0, -2.0), (0, 0, 4), focal=80.0)  # two metres back, and sees all of it
    cameras = [near, far]

    def metres_plus_radians(camera):
        turned = rotation_angle(camera.camera_to_world[0, :3, :3], view.camera_to_world[0, :3, :3])
        return (camera.centers - view.centers).norm() + turned

    assert metres_plus_radians(near) < 0.5 * metres_plus_radians(far)
    assert selector(cameras, plane_points()).nearest(view)[0] == 1


def test_scores_are_one_for_the_view_itself_and_fall_with_angle_and_scale():
    view, points = look_at((0, 0, 0), (0, 0, 4)), plane_points()
    others = [
        view,
        look_at((1.5, 0, 0), (0, 0, 4)),
        look_at((3.0, 0, 0), (0, 0, 4)),
        look_at((0, 0, -4.0), (0, 0, 4)),
        look_at((0, 0, 2 * PLANE), (0, 0, 4)),  # from behind
    ]
    scores = covisibility(view, others, points)
    assert torch.allclose(scores[0], torch.ones_like(scores[0]), atol=1e-5)
    assert scores[1].mean() > scores[2].mean() > 0
    assert scores[3].mean().item() == pytest.approx(0.5, abs=0.05)  # twice as far: half the resolution
    assert scores[4].max() == 0
    assert ((scores >= 0) & (scores <= 1 + 1e-5)).all()


def test_image_size_and_chunks_do_not_change_scores():
    view, points = look_at((0.2, 0, 0), (0, 0, 4)), plane_points(200)
    cameras = row_of_cameras(140, spacing=0.02)
    small = [c.resized(24, 16) for c in cameras]
    assert torch.allclose(covisibility(view, cameras, points), covisibility(view, small, points), atol=1e-5)
    some = list(range(0, 140, 7))
    one_by_one = torch.cat([covisibility(view, [cameras[i]], points) for i in some])
    assert torch.allclose(covisibility(view, cameras, points)[some], one_by_one, atol=1e-5)


def test_later_photos_add_what_is_missing():
    scores = torch.tensor([[1, 1, 1, 0, 0.0], [1, 1, 0.9, 0, 0], [0, 0, 0, 0.5, 0.6], [0, 0, 0, 0, 0]])
    assert greedy_cover(scores, 4) == [0, 2, 1]  # the one that shows nothing never comes
    assert greedy_cover(scores, 1) == [0]
    assert greedy_cover(torch.ones(3, 2), 2) == [0, 1]


def test_nearest_pose_when_no_point_is_seen():
    cameras = row_of_cameras(5)
    away = look_at((0.6, 0, 0), (0.6, 0, -4))
    assert selector(cameras, plane_points(), 3).nearest(away) == selector(cameras, None, 3).nearest(away)
    assert selector(cameras, None, 3).nearest(look_at((0.6, 0, 0), (0.6, 0, 4)))[:2] == [3, 4]


def test_photos_of_any_size_come_at_the_views_size_and_fit():
    cameras = [
        look_at((-0.3, 0, 0), (0, 0, 4), width=96, height=64, focal=80.0),
        look_at((0.3, 0, 0), (0, 0, 4), width=60, height=90, focal=70.0),
        look_at((0.0, 0.2, 0), (0, 0, 4), width=20, height=12, focal=17.0),
    ]
    view, renderer = look_at((0, 0, 0), (0, 0, 4)), PlaneRenderer()
    photos = selector(cameras, plane_points(), 3, bytes_=True).select(view, renderer)
    assert photos.rgb.shape == (3, 3, 32, 48)
    assert photos.alpha.min() == 1
    truth = renderer.render(view)
    for photo in photos:
        warped = backward_warp(photo, truth.depth, view)
        error = ((warped.rgb - truth.rgb).abs().mean(dim=1, keepdim=True) * (warped.valid > 0.9)).sum()
        assert error / (warped.valid > 0.9).sum() < 0.02
        assert (warped.valid > 0.9).float().mean() > 0.4


@pytest.mark.parametrize(("width", "height"), [(48, 32), (20, 20), (33, 50), (100, 30)])
def test_covered_image_and_camera_agree(width, height):
    camera = look_at((0.1, 0.2, 0), (0.3, 0, 4), width=72, height=54, focal=60.0)
    photo = PlaneRenderer().render(camera).rgb
    covered = cover_cameras(camera, width, height)
    expected = PlaneRenderer().render(covered).rgb
    assert covered.intrinsics[0, 0, 0] / covered.intrinsics[0, 1, 1] == pytest.approx(1, abs=0.03)
    assert (cover_images(photo, width, height) - expected).abs().mean() < 0.01


def test_selection_is_deterministic_and_limited():
    cameras, view = row_of_cameras(9), look_at((0.4, 0.3, 0), (0, 0, 4))
    chosen = selector(cameras, plane_points(), 4).nearest(view)
    assert chosen == selector(cameras, plane_points(), 4).nearest(view)
    assert len(chosen) == len(set(chosen)) == 4
    assert selector(cameras, plane_points(), 0).select(view, PlaneRenderer()) is None


@pytest.mark.parametrize("points", [plane_points(), None])
def test_only_the_photos_it_may_choose_from_are_chosen(points):
    cameras, view = row_of_cameras(9), look_at((0.4, 0.3, 0), (0, 0, 4))
    capture, best = PlaneCapture(cameras, points), selector(cameras, points, 2).nearest(view)
    others = [i for i in range(9) if i not in best]
    chosen = ReferenceSelector(capture, 2, others).nearest(view)
    assert set(chosen) <= set(others)
    shown = ReferenceSelector(capture, 2, others).select(view, PlaneRenderer())
    assert torch.equal(shown.cameras.centers, torch.cat([cameras[i].centers for i in chosen]))


def test_a_photo_of_the_wrong_size_is_named():
    cameras = row_of_cameras(1)
    capture = PlaneCapture(cameras)
    capture.photo = lambda index: torch.zeros(32, 48, 3)
    wrong = ReferenceSelector(capture, 1)
    with pytest.raises(ValueError, match=r"photo 0 has shape \(32, 48, 3\)"):
        wrong.select(cameras[0], PlaneRenderer())
