# SPDX-License-Identifier: Apache-2.0
import json
import math
from itertools import pairwise

import pytest
import torch
from plane_scene import PLANE, look_at, plane_points, row_of_cameras

from harmonizer_ns.distill.targets import extrapolate, keep_overlapping, load_camera_path, seen_fraction
from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import check_poses


def camera_path(**changes):
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    entry = {"camera_to_world": pose.flatten().tolist(), "fov": 60.0, "aspect": 2.0}
    whole = {"camera_type": "perspective", "render_width": 200, "render_height": 100, "camera_path": [entry, entry]}
    return {**whole, **changes}


def write(tmp_path, data):
    path = tmp_path / "path.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_camera_path_in_opencv_axes(tmp_path):
    first, second = load_camera_path(write(tmp_path, camera_path()))
    assert (first.width, first.height, len(first), len(second)) == (200, 100, 1, 1)
    # OpenGL looks along -z with y up: in OpenCV axes z forward is -z of the world, y down is -y.
    assert torch.equal(first.camera_to_world[0, :3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    assert first.centers[0].tolist() == [1.0, 2.0, 3.0]
    focal = 50 / math.tan(math.radians(30))
    assert torch.allclose(first.intrinsics[0], torch.tensor([[focal, 0, 100], [0, focal, 50], [0, 0, 1.0]]))


def test_camera_path_in_another_frame(tmp_path):
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 10
    first, _ = load_camera_path(write(tmp_path, camera_path()), transform=lambda poses: shift @ poses)
    assert first.centers[0].tolist() == [11.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "JSON object"),
        (camera_path(camera_path=[]), "at least one camera"),
        (camera_path(camera_type="fisheye"), "fisheye"),
        (camera_path(render_width=None), "render_width"),
        (camera_path(render_width=65536), "render_width"),
        (
            camera_path(camera_path=[{"fov": 50, "camera_to_world": [1, 2]}]),
            "camera 0: camera_to_world should",
        ),
        (camera_path(camera_path=[{"fov": 50, "camera_to_world": [0.0] * 16}]), "camera 0.*not rigid"),
        (camera_path(camera_path=[{"fov": 190, "camera_to_world": torch.eye(4).flatten().tolist()}]), "190"),
        (camera_path(render_width=65536), "render_width.*32768"),
        (camera_path(render_width=10_000, render_height=8), "camera 0: the focal length"),
    ],
)
def test_bad_camera_paths_are_explained(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        load_camera_path(write(tmp_path, data))


def test_missing_camera_path(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json"):
        load_camera_path(tmp_path / "nowhere.json")


def orbit(count=24, radius=3.0, **size):
    angles = [2 * math.pi * i / count for i in range(count)]
    return [look_at((radius * math.cos(a), 0.0, radius * math.sin(a)), (0, 0, 0), **size) for a in angles]


def ball(count=3000, radius=0.6):
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0))) * radius


def test_extrapolated_views_leave_the_trajectory_and_look_at_the_content():
    train = orbit()
    targets = extrapolate(train, ball(), 8, fraction=0.2)
    centers = torch.cat([c.centers for c in train])
    size = 6.0  # the diameter of the orbit
    for target in targets:
        check_poses(target.camera_to_world, ["target"])
        assert torch.cdist(target.centers, centers).min() > 0.5 * 0.2 * size  # not back on the orbit
        assert torch.cdist(target.centers, centers).min() < 1.01 * 0.2 * size
        direction, to_middle = target.camera_to_world[0, :3, 2], -target.centers[0]
        assert torch.dot(direction, to_middle) / to_middle.norm() > 0.98
        assert seen_fraction(target, ball()) > 0.9


def test_extrapolated_views_are_spread_and_differ_in_direction():
    targets = extrapolate(orbit(), ball(), 8, 0.2)
    angles = sorted(math.atan2(t.centers[0, 2], t.centers[0, 0]) for t in targets)
    gaps = [b - a for a, b in pairwise(angles)]
    assert 0.5 * 2 * math.pi / 8 < max(gaps) < 2 * 2 * math.pi / 8
    heights = [t.centers[0, 1].item() for t in targets]
    assert min(heights) < -0.5
    assert max(heights) > 0.5


def test_extrapolation_is_deterministic_and_follows_the_scale():
    a, b = extrapolate(orbit(), ball(), 6, 0.2), extrapolate(orbit(), ball(), 6, 0.2)
    assert all(torch.equal(x.camera_to_world, y.camera_to_world) for x, y in zip(a, b, strict=True))
    large = extrapolate(orbit(radius=30.0), 10 * ball(), 6, 0.2)
    assert all(torch.allclose(10 * x.centers, y.centers, rtol=1e-3, atol=1e-3) for x, y in zip(a, large, strict=True))


def test_extrapolated_views_keep_their_cameras_intrinsics_and_size():
    train = orbit(4, focal=30.0) + orbit(4, focal=50.0, width=64, height=64)
    targets = extrapolate(train, ball(), 8, 0.2)
    assert [(t.width, t.intrinsics[0, 0, 0].item()) for t in targets] == [(48, 30.0)] * 4 + [(64, 50.0)] * 4


def test_extrapolation_does_not_walk_into_the_content():
    train = row_of_cameras(2, spacing=20.0)  # a fifth of this capture's size is as far as the plane
    for target in extrapolate(train, plane_points(half=12.0, count=4000), 6, 0.2):
        assert target.centers[0, 2] <= 0.5 * PLANE + 1e-4


@pytest.mark.parametrize("points", [None, torch.zeros(0, 3)])
def test_extrapolation_without_points_or_spread(points):
    (target,) = extrapolate(row_of_cameras(1), points, 1, 0.2)
    check_poses(target.camera_to_world, ["target"])
    assert target.centers.norm() > 0.1


def test_overlap_names_blind_targets():
    train, points = row_of_cameras(), plane_points()
    good, blind = look_at((2.0, 0, 0), (1, 0, 4)), look_at((0, 0, 0), (0.1, 0, -4))
    assert keep_overlapping([good], train, points, print) == [good]
    said = []
    assert keep_overlapping([good, blind], train, points, said.append) == [good]
    assert "target 1 sees 0.00%" in said[0]
    assert "dropped 1 of 2" in said[0]
    with pytest.raises(InputError, match=r"no overlap: target 0 sees 0\.00%"):
        keep_overlapping([blind], train, points, print)
    assert keep_overlapping([blind], train, None, print) == [blind]
