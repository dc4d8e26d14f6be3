# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from solids import Solids, around, capture, changed, coverage, noise, plane, precision, sphere

from harmonizer_ns.errors import InputError
from harmonizer_ns.raster import set_num_threads
from harmonizer_ns.stereo import views
from harmonizer_ns.stereo.depth import estimate_depth
from harmonizer_ns.stereo.settings import StereoSettings

SURFACES = {
    "wall": [plane((0, 0, 1), 0.5)],
    "slanted wall": [plane((0.7, -0.2, 1), 0.3)],
    "sphere": [plane((0, 0, 1), 1.5), sphere((0, 0, 0), 0.6)],
}


@pytest.mark.parametrize("name", SURFACES)
def test_depth_is_right_where_it_is_sure(name):
    solids = Solids(SURFACES[name], noise(3))
    maps = estimate_depth(capture(solids, around(5)))
    assert precision(maps, solids) > 0.97
    assert coverage(maps, solids) > 0.6


def test_depth_is_found_without_points(photos, room):
    maps = estimate_depth(replace(photos, points=torch.zeros(0, 3), colors=torch.zeros(0, 3)))
    assert precision(maps, room) > 0.97
    assert coverage(maps, room) > 0.6


def test_photos_are_matched_from_coarse_to_fine(photos, room, monkeypatch):
    monkeypatch.setattr(views, "_COARSEST", 48)
    assert views.levels(photos.cameras, 480) == 2
    maps = estimate_depth(photos)
    assert precision(maps, room) > 0.97
    assert coverage(maps, room) > 0.55


def test_photos_may_differ_in_size(room, monkeypatch):
    monkeypatch.setattr(views, "_COARSEST", 64)
    cameras = [camera.resized(*((96, 72), (60, 45))[i % 2]) for i, camera in enumerate(around(6))]
    maps = estimate_depth(capture(room, cameras))
    assert [m.depth.shape for m in maps] == [(72, 96), (45, 60)] * 3
    assert precision(maps, room) > 0.95
    assert coverage(maps, room) > 0.4


def test_maps_are_no_wider_than_asked(photos):
    maps = estimate_depth(photos, StereoSettings(width=48))
    assert {m.depth.shape for m in maps} == {(36, 48)}
    assert maps[0].camera.width == 48


def test_neither_threads_nor_the_order_of_photos_change_a_bit(photos):
    order = [3, 0, 5, 1, 4, 2]
    first = estimate_depth(photos)
    set_num_threads(3)
    second = estimate_depth(photos.part(order))
    for k, i in enumerate(order):
        assert torch.equal(first[i].depth, second[k].depth)
        assert torch.equal(first[i].confidence, second[k].confidence)
        assert first[i].witnesses == tuple(order[j] for j in second[k].witnesses)


def test_exposure_does_not_matter(photos, room):
    bright = changed(photos, lambda i, photo: (0.6 + 0.08 * i) * photo + 0.03 * (i % 3))
    maps = estimate_depth(bright)
    assert precision(maps, room) > 0.97
    assert coverage(maps, room) > 0.55


def test_two_photos_are_enough_to_find_some(photos, room):
    maps = estimate_depth(photos.part([1, 3]))
    assert precision(maps, room) > 0.95
    assert coverage(maps, room) > 0.3


def test_a_photo_of_something_else_harms_nothing(photos, room):
    elsewhere = Solids(room.surfaces, noise(9)).photo(photos.cameras[2])
    maps = estimate_depth(changed(photos, lambda i, photo: elsewhere if i == 2 else photo))
    assert maps[2].sure.float().mean() < 0.01
    others = [m for i, m in enumerate(maps) if i != 2]
    assert precision(others, room) > 0.97
    assert coverage(others, room) > 0.4


def test_what_moves_has_no_depth(photos, room):
    card = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))

    def with_card(i, photo):
        photo = photo.clone()
        photo[:, 10:34, 10 + 11 * i : 34 + 11 * i] = card
        return photo

    maps = estimate_depth(changed(photos, with_card))
    assert precision(maps, room) > 0.97
    on_card = torch.cat([m.sure[13:31, 13 + 11 * i : 31 + 11 * i].flatten() for i, m in enumerate(maps)])
    assert on_card.float().mean() < 0.1


def test_flat_photos_have_no_depth(photos):
    generator = torch.Generator().manual_seed(0)
    maps = estimate_depth(changed(photos, lambda i, photo: 0.5 + 0.004 * torch.randn(photo.shape, generator=generator)))
    assert max(m.sure.float().mean().item() for m in maps) < 0.01


def test_cameras_in_one_place_find_no_depth(room):
    cameras = around(4)
    turned = [replace(c, camera_to_world=c.camera_to_world.clone()) for c in cameras]
    for camera in turned:
        camera.camera_to_world[:, :3, 3] = cameras[0].centers
    shot = capture(room, turned)
    for one in (shot, replace(shot, points=torch.zeros(0, 3), colors=torch.zeros(0, 3))):
        assert all(not m.depth.any() for m in estimate_depth(one))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_photos_find_no_depth(photos, count):
    maps = estimate_depth(photos, among=range(count))
    assert len(maps) == count
    assert not any(m.depth.any() for m in maps)


def test_masked_pixels_have_no_depth(photos, room):
    def read(i):
        mask = torch.ones(1, 72, 96, dtype=torch.bool)
        mask[:, :, :40] = False
        return torch.where(mask, photos.photo(i), 200), mask

    maps = estimate_depth(replace(photos, read=read, _cache={}))
    assert not any(m.depth[:, :40].any() for m in maps)
    assert precision(maps, room) > 0.97


def test_only_photos_to_learn_from_are_used(photos):
    maps = estimate_depth(replace(photos, train=(0, 2, 4), test=(1, 3, 5)))
    alone = estimate_depth(photos.part([0, 2, 4]))
    assert all(torch.equal(a.depth, b.depth) for a, b in zip(maps, alone, strict=True))


def test_normals_are_those_of_the_surface():
    normal = torch.nn.functional.normalize(torch.tensor([0.7, -0.2, 1.0]), dim=0)
    maps = estimate_depth(capture(Solids([plane((0.7, -0.2, 1), 0.3)], noise(3)), around(5)))
    found = torch.cat([m.normals()[m.sure] for m in maps])
    known = found.norm(dim=-1) > 0
    assert known.float().mean() > 0.9
    assert ((found[known] @ -normal) > 0.97).float().mean() > 0.8


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="width"):
        StereoSettings(width=4)


@pytest.mark.gpu
def test_a_gpu_finds_the_same(photos):
    for one, other in zip(estimate_depth(photos), estimate_depth(photos, device="cuda"), strict=True):
        assert ((one.depth > 0) == (other.depth > 0)).float().mean() > 0.99
        both = (one.depth > 0) & (other.depth > 0)
        assert ((one.depth / other.depth - 1).abs()[both] < 1e-3).float().mean() > 0.99
