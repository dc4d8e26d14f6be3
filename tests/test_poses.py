# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from harmonizer_ns.poses import (
    check_poses,
    interpolate_pose,
    nearest_spacing,
    quaternion_to_rotation,
    rotation_angle,
    rotation_between,
    rotation_to_quaternion,
)


def rotation(axis, angle):
    """Rodrigues, through the matrix exponential."""
    x, y, z = (torch.tensor(axis, dtype=torch.float64) / math.sqrt(sum(a * a for a in axis))).tolist()
    return torch.linalg.matrix_exp(angle * torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))


def pose(axis=(0, 0, 1), angle=0.0, position=(0.0, 0.0, 0.0), dtype=torch.float64):
    p = torch.eye(4, dtype=torch.float64)
    p[:3, :3], p[:3, 3] = rotation(axis, angle), torch.tensor(position, dtype=torch.float64)
    return p.to(dtype)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, math.pi - 1e-6, math.pi])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 3)])
def test_interpolation_turns_at_constant_speed(axis, angle):
    a = pose((0.3, 1, -0.2), 0.8)
    b = a @ pose(axis, angle, (1.0, 2.0, 3.0))
    for u in (0.0, 0.25, 0.5, 1.0):
        middle = interpolate_pose(a, b, u)
        assert torch.isfinite(middle).all()
        check_poses(middle[None], ["middle"])
        assert rotation_angle(a[:3, :3], middle[:3, :3]).item() == pytest.approx(u * angle, abs=1e-7)
        assert torch.allclose(middle[:3, 3], torch.lerp(a[:3, 3], b[:3, 3], u))


def test_interpolation_ends_exactly_and_in_single_precision_stays_rigid():
    a, b = pose((1, 2, 3), 0.3, dtype=torch.float32), pose((-2, 1, 0), 2.9, (5, 6, 7), dtype=torch.float32)
    assert torch.equal(interpolate_pose(a, b, 0.0), a)
    assert torch.equal(interpolate_pose(a, b, 1.0), b)
    middle = interpolate_pose(a, b, 0.37)
    assert middle.dtype == torch.float32
    assert torch.allclose(middle[:3, :3] @ middle[:3, :3].T, torch.eye(3), atol=1e-6)


def test_quaternions_round_trip():
    for axis in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (-3, 1, 0.1)]:
        for angle in (0.0, 0.5, 2.0, 3.1, math.pi):
            R = rotation(axis, angle)
            assert torch.allclose(quaternion_to_rotation(rotation_to_quaternion(R)), R, atol=1e-10)


def test_rotation_angle_is_never_nan():
    R = rotation((1, 2, 3), 0.7).float() * (1 + 1e-6)  # the trace exceeds 3: arccos would give NaN
    assert rotation_angle(R, R).item() == pytest.approx(0, abs=1e-5)
    batch = torch.stack([rotation((0, 1, 0), a) for a in (0.1, math.pi)])
    assert torch.allclose(
        rotation_angle(torch.eye(3).double().expand(2, 3, 3), batch), torch.tensor([0.1, math.pi]).double()
    )


def test_rotation_between_takes_one_direction_to_the_other():
    directions = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    pairs = [*zip(directions[:3], directions[3:], strict=True), (directions[0], -directions[0])]
    for a, b in [*pairs, (directions[1], directions[1])]:
        R = rotation_between(a, b)
        assert torch.allclose(R @ a / a.norm(), b / b.norm(), atol=1e-9)
        angle = math.acos(max(-1.0, min(1.0, (torch.dot(a, b) / a.norm() / b.norm()).item())))
        assert rotation_angle(torch.eye(3).double(), R).item() == pytest.approx(angle, abs=1e-6)
        assert torch.linalg.det(R).item() == pytest.approx(1)


def test_spacing_is_the_median_over_nearest_distinct_cameras():
    poses = torch.stack([pose((0, 1, 0), 0.1 * i, (float(i), 0.0, 0.0)) for i in range(5)])
    poses = torch.cat([poses, poses])  # a rig: two cameras at each place
    distance, angle = nearest_spacing(poses)
    assert distance == pytest.approx(1.0)
    assert angle == pytest.approx(0.1)
    assert nearest_spacing(poses[:1]) == (0.0, 0.0)
    assert nearest_spacing(poses[[0, 5]]) == (0.0, 0.0)


def broken(kind):
    p = pose(dtype=torch.float32)
    if kind == "nan":
        p[0, 3] = torch.nan
    elif kind == "scaled":
        p[:3, :3] *= 1.1
    elif kind == "mirrored":
        p[0, 0] = -1
    else:
        p[3, 3] = 2
    return p


@pytest.mark.parametrize(
    ("kind", "message"),
    [("nan", "NaN"), ("scaled", "not orthonormal"), ("mirrored", "mirrors"), ("row", "last row")],
)
def test_broken_poses_are_named(kind, message):
    poses = torch.stack([pose(dtype=torch.float32), broken(kind)])
    with pytest.raises(ValueError, match=rf"b\.png .*{message}"):
        check_poses(poses, ["a.png", "b.png"])
    check_poses(poses[:1], ["a.png"])
