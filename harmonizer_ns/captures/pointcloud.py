# SPDX-License-Identifier: Apache-2.0
"""Read and write seed point clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from plyfile import PlyData, PlyElement
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import ply_columns


def read_point_cloud(file: Path) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    """Points in float64, and their colours in [0, 1], from a PLY file; grey where the file has no colours.

    Args:
        file: PLY, binary or text, with vertices ``x y z`` and, usually, ``red green blue`` from 0 to 255.

    Raises:
        InputError: when the file is missing, is no PLY or lacks coordinates.
    """
    columns = ply_columns(file).get("vertex", {})
    if not {"x", "y", "z"} <= columns.keys():
        raise InputError(f"the point cloud {file} has no vertices with x, y and z")
    points = torch.from_numpy(np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=1))
    if not {"red", "green", "blue"} <= columns.keys():
        return points, torch.full((len(points), 3), 0.5)
    colors = np.stack([columns[channel] for channel in ("red", "green", "blue")], axis=1).astype(np.float32)
    return points, torch.from_numpy(colors / 255)


def write_point_cloud(file: Path, points: Float[np.ndarray, "p 3"], colors: UInt8[np.ndarray, "p 3"]) -> None:
    """Write points as nerfstudio does: x, y, z, red, green, blue."""
    channels = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.empty(len(points), dtype=channels)
    for i, axis in enumerate("xyz"):
        table[axis] = points[:, i]
    for i, channel in enumerate(("red", "green", "blue")):
        table[channel] = colors[:, i]
    PlyData([PlyElement.describe(table, "vertex")]).write(str(file))
