# SPDX-License-Identifier: Apache-2.0
"""World frames: nerfstudio's, gsplat's normalised one, and ways between them.

A `Similarity` maps ``x`` to ``scale R x + t``. Cameras and points are moved into the frame of given splats, never the
other way round: rotating splats would mean rotating their spherical harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json, write_json
from harmonizer_ns.poses import FARTHEST, matrix_from_json, rotation_between

ORIGIN_FILE = "world_origin.json"
"""Beside the results of a run on a georeferenced capture: ``{"origin": [x, y, z]}``, to add to all coordinates."""


@dataclass(frozen=True)
class Similarity:
    """A 4x4 matrix ``[[s R, t], [0, 1]]`` with ``s > 0``, in float64."""

    matrix: Float[Tensor, "4 4"]

    @staticmethod
    def translation(offset: Float[Tensor, " 3"]) -> Similarity:
        """Only move by an offset."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, 3] = offset
        return Similarity(matrix)

    @property
    def scale(self) -> float:
        """``s``."""
        return float(torch.linalg.det(self.matrix[:3, :3]) ** (1 / 3))

    def points(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
        """Moved points."""
        moved = points.double() @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return moved.to(points.dtype)

    def poses(self, camera_to_world: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
        """Moved cameras, still rigid."""
        moved = self.matrix @ camera_to_world.double()
        moved[:, :3, :3] /= self.scale
        return moved.to(camera_to_world.dtype)

    def inverse(self) -> Similarity:
        """The way back."""
        return Similarity(torch.linalg.inv(self.matrix))

    def after(self, first: Similarity) -> Similarity:
        """This one applied to the outcome of ``first``."""
        return Similarity(self.matrix @ first.matrix)


def read_dataparser_transforms(path: Path, applied: Float[Tensor, "4 4"]) -> Similarity:
    """From the capture's frame to nerfstudio's: ``scale (R x + t)`` of ``dataparser_transforms.json``.

    nerfstudio writes the way from COLMAP's frame; ``applied`` is the part of it that transforms.json has undergone
    already, and `ORIGIN_FILE` beside it tells what was taken from the coordinates of a georeferenced capture.

    Args:
        path: the file that nerfstudio puts beside a run's config.yml.
        applied: from COLMAP's frame to the capture's.

    Raises:
        InputError: when the file cannot be read or holds something else.
    """
    data, matrix = read_json(path), torch.eye(4, dtype=torch.float64)
    if not isinstance(data.get("scale"), int | float):
        raise InputError(f"{path} is not a dataparser_transforms.json: it has no scale")
    matrix[:3] = data["scale"] * matrix_from_json(data.get("transform"), (3, 4), f"{path}: transform")
    if not (matrix.abs() <= FARTHEST).all() or torch.linalg.det(matrix[:3, :3]) <= 0:
        raise InputError(f"{path}: the transform is not a rotation with a positive scale")
    way = Similarity(matrix).after(Similarity(applied.double()).inverse())
    return way.after(Similarity.translation(-read_origin(path.parent)))


def write_origin(folder: Path, origin: Float[Tensor, " 3"]) -> None:
    """Keep what was taken from all coordinates in a run's folder; nothing is written where that is nothing.

    Raises:
        InputError: when the file cannot be written.
    """
    if origin.any():
        write_json(folder / ORIGIN_FILE, {"origin": origin.tolist()})


def read_origin(folder: Path) -> Float[Tensor, " 3"]:
    """Read what was taken from all coordinates, in float64; zero where the folder says nothing of it.

    Raises:
        InputError: when the file holds something else.
    """
    file = folder / ORIGIN_FILE
    if not file.is_file():
        return torch.zeros(3, dtype=torch.float64)
    origin = matrix_from_json(read_json(file).get("origin"), (3, 1), f"{file}: origin")[:, 0]
    if not (origin.abs() <= FARTHEST).all():
        raise InputError(f"{file}: the origin {origin.tolist()} is not finite, or beyond {FARTHEST:g}")
    return origin


def gsplat_normalization(camera_to_world: Float[Tensor, "n 4 4"], points: Float[Tensor, "p 3"]) -> Similarity:
    """The frame that gsplat 1.4's examples train in.

    The mean up direction of the cameras becomes -y, the median of the points of all viewing rays nearest to the
    origin becomes the origin, the median distance of the cameras from it 1; then the origin moves to the median of the
    points and the axes become their principal axes, longest first.
    """
    poses = camera_to_world.double()
    up = -poses[:, :3, 1].mean(dim=0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation_between(up, up.new_tensor([0.0, -1.0, 0.0]))
    centers = poses[:, :3, 3] @ matrix[:3, :3].T
    forward = poses[:, :3, 2] @ matrix[:3, :3].T
    nearest = centers - (centers * forward).sum(dim=1, keepdim=True) * forward
    matrix[:3, 3] = -_median(nearest)
    distance = float(np.median((centers + matrix[:3, 3]).norm(dim=1).numpy()))
    matrix[:3] /= distance or 1.0
    upright = Similarity(matrix)
    if len(points) < 4:
        return upright
    return _principal_axes(upright.points(points.double())).after(upright)


def _principal_axes(points: Float[Tensor, "p 3"]) -> Similarity:
    center = _median(points)
    _, vectors = np.linalg.eigh(np.cov((points - center).numpy(), rowvar=False))
    axes = torch.from_numpy(vectors[:, ::-1].copy())
    if torch.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = axes.T, -axes.T @ center
    return Similarity(matrix)


def _median(points: Float[Tensor, "p 3"]) -> Float[Tensor, " 3"]:
    """Of each coordinate; the mean of the middle two where their number is even (torch takes the lower one)."""
    return torch.from_numpy(np.median(points.numpy(), axis=0))
