# SPDX-License-Identifier: Apache-2.0
"""Read COLMAP reconstructions, binary or text, with or without rigs, through pycolmap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.captures.posed import PosedViews, View
from harmonizer_ns.errors import InputError
from harmonizer_ns.media import natural_key
from harmonizer_ns.poses import check_poses

_PLACES = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", ".")
"""Where a reconstruction may lie in the folder of a capture."""
_PARTS = ("cameras", "images", "points3D")


def find_reconstruction(folder: Path) -> tuple[Path, ...]:
    """Find the files of the reconstruction in a capture's folder; none when there is none."""
    for place in _PLACES:
        for suffix in ("bin", "txt"):
            files = tuple(folder / place / f"{part}.{suffix}" for part in _PARTS)
            if all(file.is_file() for file in files):
                return files
    return ()


def read_colmap(folder: Path, with_tracks: bool = False) -> PosedViews:
    """Read the reconstruction of a capture.

    Args:
        folder: of the capture; photos lie in its ``images``.
        with_tracks: whether to find out which points each photo shows (for the depth loss).

    Raises:
        InputError: when there is no reconstruction, it cannot be read, has no posed photo or a broken pose.
    """
    import pycolmap

    files = find_reconstruction(folder)
    if not files:
        raise InputError(
            f"no COLMAP reconstruction in {folder}: expected cameras, images and points3D (.bin or .txt) in sparse/0"
        )
    sparse = files[0].parent
    try:
        model = pycolmap.Reconstruction(str(sparse))
    except (ValueError, IndexError, RuntimeError, MemoryError, OSError) as error:
        raise InputError(f"the COLMAP reconstruction in {sparse} cannot be read: {error}") from error
    images = [model.images[i] for i in model.reg_image_ids()]
    if not images:
        raise InputError(f"the COLMAP reconstruction in {sparse} has no posed photos")
    names = _names_in_text(sparse / "images.txt")
    index = {key: i for i, key in enumerate(model.points3D)}
    views = [
        View(
            names.get(image.image_id, image.name),
            _pose(image),
            model.cameras[image.camera_id],
            seen=_seen(image, index) if with_tracks else None,
        )
        for image in images
    ]
    views.sort(key=lambda view: natural_key(view.name))
    check_poses(torch.stack([view.camera_to_world for view in views]), [f"{sparse}: {view.name}" for view in views])
    return PosedViews(folder, folder / "images", views, files, lambda: _points(model))


def _names_in_text(file: Path) -> dict[int, str]:
    """Names by image id; pycolmap ends a name at its first space. Empty for a binary reconstruction."""
    if file.with_suffix(".bin").is_file() or not file.is_file():
        return {}
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    fields = [line.split(maxsplit=9) for line in lines[::2]]  # every other line lists the keypoints
    return {int(parts[0]): parts[9].strip() for parts in fields if len(parts) == 10}


def _pose(image: Any) -> Float[Tensor, "4 4"]:
    pose = torch.eye(4)
    pose[:3] = torch.from_numpy(image.cam_from_world().inverse().matrix()).float()
    return pose


def _seen(image: Any, index: dict[int, int]) -> Int[Tensor, " k"]:
    return torch.tensor([index[p.point3D_id] for p in image.points2D if p.has_point3D()], dtype=torch.long)


def _points(model: Any) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    points = list(model.points3D.values())
    if not points:
        return torch.zeros(0, 3), torch.zeros(0, 3)
    xyz = np.stack([point.xyz for point in points]).astype(np.float32)
    rgb = np.stack([point.color for point in points]).astype(np.float32) / 255
    return torch.from_numpy(xyz), torch.from_numpy(rgb)
