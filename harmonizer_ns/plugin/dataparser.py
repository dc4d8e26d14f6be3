# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's data: it is read as captures are, and checked before anything is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from nerfstudio.data.dataparsers import nerfstudio_dataparser
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from torch import Tensor

from harmonizer_ns.captures.pointcloud import read_point_cloud
from harmonizer_ns.captures.posed import far_origin
from harmonizer_ns.captures.transforms import read_meta
from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin.cameras import opencv_poses
from harmonizer_ns.poses import check_poses
from harmonizer_ns.splats.model import MIN_POINTS

MIN_PHOTOS = 2


class PlyNerfstudio(Nerfstudio):
    """Upstream reads seed points with open3d, which needs system libraries that many servers do not have.

    Also, names are normalised as in `read_meta`, a capture's far `origin` is taken out before upstream rounds to
    float32, and nothing is asked or written: upstream offers to add seed points to captures of its early versions.
    """

    origin = torch.zeros(3, dtype=torch.float64)
    """What is taken from the capture's coordinates."""

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        self.prompted_user, self.create_pc = True, False
        with patch.object(nerfstudio_dataparser, "load_from_json", self._meta):
            return super()._generate_dataparser_outputs(split)

    def _meta(self, file: Path) -> dict[str, Any]:
        meta = read_meta(file)
        poses = [torch.tensor(frame["transform_matrix"], dtype=torch.float64) for frame in meta["frames"]]
        self.origin = far_origin(torch.stack([pose[:3, 3] for pose in poses]), str(file))
        for frame, pose in zip(meta["frames"], poses, strict=True):
            pose[:3, 3] -= self.origin
            frame["transform_matrix"] = pose.tolist()
        return meta

    def _load_3D_points(  # noqa: N802 - upstream's name
        self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float
    ) -> dict[str, Tensor] | None:
        points, colors = read_point_cloud(ply_file_path)
        if not len(points):
            return None
        points = (points - self.origin).to(transform_matrix)
        points = (points @ transform_matrix[:, :3].T + transform_matrix[:, 3]) * scale_factor
        return {"points3D_xyz": points, "points3D_rgb": (colors * 255).round().to(torch.uint8)}


def check_outputs(outputs: DataparserOutputs, *, needs_points: bool) -> None:
    """Check what any nerfstudio dataparser found for training.

    Args:
        outputs: of the training split.
        needs_points: whether a seed point cloud must be there.

    Raises:
        InputError: on fewer than two photos, non-rigid poses or missing seed points.
    """
    files = [Path(file) for file in outputs.image_filenames]
    if len(files) < MIN_PHOTOS:
        raise InputError(f"{len(files)} training photo found, at least {MIN_PHOTOS} are needed to reconstruct a scene")
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(f"{len(missing)} photos are missing, the first is {missing[0]}")
    check_poses(opencv_poses(outputs.cameras.camera_to_worlds), [file.name for file in files])
    if needs_points:
        check_count(len(outputs.metadata.get("points3D_xyz", ())))


def check_count(points: int) -> None:
    """Refuse to begin a splat at too few points.

    Raises:
        InputError: saying how there can be more.
    """
    if points < MIN_POINTS:
        raise InputError(
            f"{points} seed points found, a splat needs at least {MIN_POINTS}: point ply_file_path in transforms.json "
            "at a point cloud, or start from random points with --pipeline.model.random-init True"
        )
