# SPDX-License-Identifier: Apache-2.0
"""Rigid motions: validation, distances and interpolation of camera-to-world transforms.

Notation: a pose is ``[R | t]`` with ``R`` in SO(3); a unit quaternion is ``(w, x, y, z)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError

RIGID_TOLERANCE = 1e-3
"""Largest entry of ``R^T R - I`` that still passes for rounding."""
FARTHEST = 1e15
"""Coordinates beyond this are no scene's."""
FOCAL_LENGTHS = (0.05, 50.0)
"""Focal lengths between these many image widths are those of lenses."""
LARGEST_SIDE = 32_768
"""No photo or render is higher or wider, in pixels."""


def flip_axes(camera_to_world: Float[Tensor, "*n r 4"]) -> Float[Tensor, "*n r 4"]:
    """The same poses with the camera's y and z axes reversed: OpenGL's (y up, z backward) to OpenCV's, and back.

    This is the only flip of the project: whatever reads or writes OpenGL poses, 3x4 or 4x4, comes here.
    """
    return camera_to_world * camera_to_world.new_tensor([1.0, -1.0, -1.0, 1.0])


def matrix_from_json(value: Any, shape: tuple[int, int], what: str) -> Float[Tensor, "r c"]:
    """A matrix of a JSON file in float64: rows, or all numbers in a row (row-major).

    Raises:
        InputError: when it holds something else, beginning with ``what`` it is.
    """
    try:
        return torch.tensor(value, dtype=torch.float64).reshape(shape)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{what} should be a {shape[0]}x{shape[1]} list of numbers, got {value!r}") from error


def check_poses(camera_to_world: Float[Tensor, "n 4 4"], names: Sequence[str]) -> None:
    """Check that every pose is a finite rigid transform.

    Args:
        camera_to_world: poses.
        names: one name for each pose, such as the image's file name, for the message.

    Raises:
        InputError: naming the first offending image and what is wrong with it.
    """
    for name, pose in zip(names, camera_to_world.double(), strict=True):
        problem = _problem(pose)
        if problem:
            raise InputError(f"pose of {name} {problem}")


def _problem(pose: Float[Tensor, "4 4"]) -> str | None:
    """What is wrong with a pose, or None."""
    if not torch.isfinite(pose).all():
        return "contains NaN or infinity"
    if pose[:3, 3].abs().max().item() > FARTHEST:
        return f"lies {pose[:3, 3].abs().max().item():.3g} units from the origin"
    error = (pose[:3, :3].T @ pose[:3, :3] - torch.eye(3, dtype=pose.dtype, device=pose.device)).abs().max().item()
    if error > RIGID_TOLERANCE:
        return f"is not rigid: its rotation is not orthonormal (largest error {error:.3g})"
    determinant = torch.linalg.det(pose[:3, :3]).item()
    if determinant < 0:
        return f"is not rigid: it mirrors (determinant {determinant:.3f})"
    if (pose[3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().max().item() > RIGID_TOLERANCE:
        return f"has last row {pose[3].tolist()}, expected [0, 0, 0, 1]"
    return None


def check_intrinsics(intrinsics: Float[Tensor, "3 3"], width: int, height: int, what: str) -> None:
    """Check that a pinhole camera is one that a lens can make.

    Args:
        intrinsics: in pixels.
        width: of the image, in pixels.
        height: likewise.
        what: how the message begins, such as the file and the photo.

    Raises:
        InputError: naming the value: an image without pixels or with a side beyond `LARGEST_SIDE`, focal lengths that
            are not within `FOCAL_LENGTHS`, a principal point more than an image beside the image.
    """
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise InputError(f"{what}: an image of {width}x{height} pixels; sides go from 1 to {LARGEST_SIDE}")
    fx, fy, cx, cy = (intrinsics[row, column].item() for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    low, high = (factor * width for factor in FOCAL_LENGTHS)
    for name, value in (("fx", fx), ("fy", fy)):
        if not low <= value <= high:
            raise InputError(f"{what}: the focal length {name}={value:g} is not from {low:g} to {high:g} pixels")
    for name, value, side in (("cx", cx, width), ("cy", cy, height)):
        if not -side <= value <= 2 * side:
            raise InputError(
                f"{what}: the principal point {name}={value:g} lies far outside of {width}x{height} pixels"
            )


def rotation_angle(a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n"]:
    """Angle in radians, in [0, pi], of the rotation that takes ``a`` to ``b``.

    ``atan2(|sin|, cos)`` is exact at both ends, where ``arccos`` of a rounded trace gives NaN.
    """
    relative = a.transpose(-1, -2) @ b
    skew = relative - relative.transpose(-1, -2)
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1) / 2
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(sine, cosine)


def rotation_to_quaternion(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, " 4"]:
    """Unit quaternion of a rotation (Shepperd 1978: divide by the largest component only)."""
    r = rotation
    trace = r.diagonal().sum()
    candidates = torch.stack([trace, r[0, 0], r[1, 1], r[2, 2]])
    wx, wy, wz = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    xy, xz, yz = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
    # Each row is the quaternion times four times one of its own components; that component squared is on the diagonal.
    rows = torch.stack(
        [
            torch.stack([1 + trace, wx, wy, wz]),
            torch.stack([wx, 1 + 2 * r[0, 0] - trace, xy, xz]),
            torch.stack([wy, xy, 1 + 2 * r[1, 1] - trace, yz]),
            torch.stack([wz, xz, yz, 1 + 2 * r[2, 2] - trace]),
        ]
    )
    return F.normalize(rows[candidates.argmax()], dim=0)


def quaternion_to_rotation(quaternion: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation of a unit quaternion."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    )
    return torch.stack(rows, dim=-2)


def slerp(a: Float[Tensor, " 4"], b: Float[Tensor, " 4"], u: float) -> Float[Tensor, " 4"]:
    """Spherical interpolation of unit quaternions along the shorter arc (Shoemake 1985).

    The half angle between the quaternions comes from ``2 atan2(|a - b|, |a + b|)``, which is finite and accurate for
    equal, nearly equal and opposite rotations alike.
    """
    b = torch.where((a * b).sum() < 0, -b, b)
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    if angle < 1e-6:
        return F.normalize((1 - u) * a + u * b, dim=0)
    return F.normalize((torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle), dim=0)


def interpolate_pose(a: Float[Tensor, "4 4"], b: Float[Tensor, "4 4"], u: float) -> Float[Tensor, "4 4"]:
    """The pose a fraction ``u`` of the way from ``a`` to ``b``: lerp of positions, slerp of rotations.

    ``u <= 0`` gives ``a`` and ``u >= 1`` gives ``b``, bit for bit.
    """
    if u <= 0 or u >= 1:
        return (a if u <= 0 else b).clone()
    start, end = a.double(), b.double()
    pose = torch.eye(4, dtype=torch.float64, device=a.device)
    quaternion = slerp(rotation_to_quaternion(start[:3, :3]), rotation_to_quaternion(end[:3, :3]), u)
    pose[:3, :3] = quaternion_to_rotation(quaternion)
    pose[:3, 3] = torch.lerp(start[:3, 3], end[:3, 3], u)
    return pose.to(b.dtype)


def rotation_between(a: Float[Tensor, " 3"], b: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes the direction of ``a`` to that of ``b`` (half-way quaternion)."""
    a, b = F.normalize(a.double(), dim=0), F.normalize(b.double(), dim=0)
    cosine = torch.dot(a, b)
    if cosine < -1 + 1e-9:  # opposite directions: half a turn about any perpendicular axis
        axis = torch.linalg.cross(a, torch.eye(3, dtype=a.dtype, device=a.device)[a.abs().argmin()])
        quaternion = torch.cat([axis.new_zeros(1), F.normalize(axis, dim=0)])
    else:
        quaternion = F.normalize(torch.cat([(1 + cosine)[None], torch.linalg.cross(a, b)]), dim=0)
    return quaternion_to_rotation(quaternion)


def camera_extent(centers: Float[Tensor, "n 3"]) -> float:
    """gsplat's scene scale: 1.1 times the largest distance of a camera from their mean; 1 for one place."""
    return 1.1 * (centers - centers.mean(dim=0)).norm(dim=-1).max().item() or 1.0


def nearest_spacing(camera_to_world: Float[Tensor, "n 4 4"]) -> tuple[float, float]:
    """How densely a capture samples space: medians over cameras of distance and angle to the nearest other camera.

    Cameras of one rig may share a place, so "other" means farther than a millionth of the capture's size.

    Returns:
        Distance in scene units (0.0 when all cameras stand in one place) and angle in radians to that same neighbour
        (0.0 likewise).
    """
    centers = camera_to_world[:, :3, 3].double()
    distances = torch.cdist(centers, centers)
    distances[distances <= 1e-6 * distances.max()] = torch.inf
    nearest, neighbour = distances.min(dim=1)
    found = torch.isfinite(nearest)
    if not found.any():
        return 0.0, 0.0
    rotations = camera_to_world[:, :3, :3].double()
    angles = rotation_angle(rotations, rotations[neighbour])
    return nearest[found].median().item(), angles[found].median().item()


def look_at(
    position: Float[Tensor, " 3"], target: Float[Tensor, " 3"], up: Float[Tensor, " 3"]
) -> Float[Tensor, "4 4"]:
    """Camera-to-world, OpenCV axes, of an upright camera at ``position`` that looks at ``target``, not along ``up``."""
    forward = F.normalize(target - position, dim=0)
    right = F.normalize(torch.linalg.cross(forward, up), dim=0)
    pose = torch.eye(4, dtype=position.dtype)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    pose[:3, 3] = position
    return pose
