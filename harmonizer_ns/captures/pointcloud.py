# SPDX-License-Identifier: Apache-2.0
"""Read seed point clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError


def read_point_cloud(file: Path) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    """Points and their colours in [0, 1] from a PLY file; grey where the file has no colours.

    Args:
        file: PLY, binary or text, with vertices ``x y z`` and, usually, ``red green blue`` from 0 to 255.

    Raises:
        InputError: when the file is missing, is no PLY, lacks coordinates or holds points that are not finite.
    """
    from plyfile import PlyData, PlyParseError

    try:
        vertex = PlyData.read(str(file))["vertex"]
        points = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float32)
    except (OSError, PlyParseError, KeyError, ValueError) as error:
        raise InputError(f"the point cloud {file} cannot be read: {error}") from error
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise InputError(f"the point cloud {file} holds {bad} points that are not finite")
    names = {item.name for item in vertex.properties}
    if not {"red", "green", "blue"} <= names:
        return torch.from_numpy(points), torch.full((len(points), 3), 0.5)
    colors = np.stack([vertex[channel] for channel in ("red", "green", "blue")], axis=1).astype(np.float32)
    return torch.from_numpy(points), torch.from_numpy(colors / 255)
