# SPDX-License-Identifier: Apache-2.0
"""Read COLMAP reconstructions, binary or text, with or without rigs, through pycolmap."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.captures.pinhole import natural_key
from harmonizer_ns.errors import InputError

_SPARSE = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", ".")
"""Where a reconstruction may lie in the folder of a capture."""


@dataclass(frozen=True)
class View:
    """One posed photo before it is read.

    Args:
        name: path below the capture's image folder.
        camera_to_world: OpenCV axes.
        lens: a ``pycolmap.Camera``, at the size that the reconstruction knows.
        mask: file of its mask, or None.
        seen: which of the capture's points its keypoints belong to, or None when that is not known.
    """

    name: str
    camera_to_world: Float[Tensor, "4 4"]
    lens: Any
    mask: Path | None = None
    seen: Int[Tensor, " k"] | None = None


@dataclass(frozen=True)
class PosedViews:
    """A capture as its files describe it.

    Args:
        folder: of the capture.
        images: folder that the views' names are relative to.
        views: in natural order of their names.
        points: seed points in world coordinates.
        colors: their colours in [0, 1].
        train: names of the photos to train on, where the capture says so.
        test: names of the photos to hold out, where the capture says so.
        applied: how the capture's frame follows from COLMAP's (nerfstudio's ``applied_transform``).
    """

    folder: Path
    images: Path
    views: list[View]
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    applied: Float[Tensor, "4 4"] = field(default_factory=lambda: torch.eye(4))


def find_sparse(folder: Path) -> Path | None:
    """The folder with the reconstruction's files, or None."""
    for place in _SPARSE:
        for suffix in ("bin", "txt"):
            if all((folder / place / f"{name}.{suffix}").is_file() for name in ("cameras", "images", "points3D")):
                return folder / place
    return None


def read_colmap(folder: Path, with_tracks: bool = False) -> PosedViews:
    """Read the reconstruction of a capture.

    Args:
        folder: of the capture; photos lie in its ``images``.
        with_tracks: whether to find out which points each photo shows (for the depth loss).

    Raises:
        InputError: when there is no reconstruction, it cannot be read, or it has no posed photo.
    """
    import pycolmap

    sparse = find_sparse(folder)
    if sparse is None:
        raise InputError(
            f"no COLMAP reconstruction in {folder}: expected cameras, images and points3D (.bin or .txt) in sparse/0"
        )
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
    return PosedViews(folder, folder / "images", views, *_points(model))


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
