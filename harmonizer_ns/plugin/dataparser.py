# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's own dataparser with seed points read by plyfile."""

from __future__ import annotations

from pathlib import Path

import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from torch import Tensor

from harmonizer_ns.captures.pointcloud import read_point_cloud


class PlyNerfstudio(Nerfstudio):
    """Upstream reads seed points with open3d, which needs system libraries that many servers do not have."""

    def _load_3D_points(  # noqa: N802 - upstream's name
        self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float
    ) -> dict[str, Tensor] | None:
        points, colors = read_point_cloud(ply_file_path)
        if not len(points):
            return None
        points = (points @ transform_matrix[:, :3].T + transform_matrix[:, 3]) * scale_factor
        return {"points3D_xyz": points, "points3D_rgb": (colors * 255).round().to(torch.uint8)}


def without_open3d(config: NerfstudioDataParserConfig) -> None:
    """Make upstream's configuration build `PlyNerfstudio`; other dataparsers are left alone."""
    if config._target is Nerfstudio:
        config._target = PlyNerfstudio
