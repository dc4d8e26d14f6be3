# SPDX-License-Identifier: Apache-2.0
"""Read COLMAP reconstructions, binary or text, with or without rigs, through pycolmap."""

from __future__ import annotations

import logging
import math
import shutil
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.captures.binary import check_binary_model
from harmonizer_ns.captures.posed import PosedViews, View
from harmonizer_ns.errors import InputError
from harmonizer_ns.media import natural_key
from harmonizer_ns.poses import check_poses

logger = logging.getLogger(__name__)

_PLACES = ("sparse", "colmap/sparse", "")
"""Where reconstructions may lie in the folder of a capture: there, or one folder further down."""
_PARTS = ("cameras", "images", "points3D")


def find_reconstruction(folder: Path) -> tuple[Path, ...]:
    """Find the files of the reconstruction in a capture's folder; none when there is none.

    Where COLMAP left several models, the one with most photos is taken.
    """
    return max(_models(folder), key=lambda model: model[1], default=((), 0))[0]


def _models(folder: Path) -> list[tuple[tuple[Path, ...], int]]:
    """List the models that lie side by side: their files, and how many photos they pose."""
    for place in _PLACES:
        nested = sorted((folder / place).glob("*")) if place else []
        if models := [files for model in (*nested, folder / place) if (files := _parts(model))]:
            return [(files, _count_images(files[1])) for files in models]
    return []


def _parts(model: Path) -> tuple[Path, ...]:
    for suffix in ("bin", "txt"):
        files = tuple(model / f"{part}.{suffix}" for part in _PARTS)
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
    models, files = _models(folder), find_reconstruction(folder)
    if not files:
        raise InputError(
            f"no COLMAP reconstruction in {folder}: expected cameras, images and points3D (.bin or .txt) in sparse/0"
        )
    sparse = files[0].parent
    if len({count for _, count in models}) > 1:
        counts = ", ".join(f"{files[0].parent}: {count}" for files, count in models)
        logger.warning("%s is read, the model with most photos (%s)", sparse, counts)
    model, names = _read_model(files)
    images = [model.images[i] for i in model.reg_image_ids()]
    if not images:
        raise InputError(f"the COLMAP reconstruction in {sparse} has no posed photos")
    index = {key: i for i, key in enumerate(model.points3D)}
    views = [
        View(
            names.get(image.image_id, image.name).replace("\\", "/"),
            _pose(image),
            model.cameras[image.camera_id],
            seen=_seen(image, index, files[2]) if with_tracks else None,
        )
        for image in images
    ]
    views.sort(key=lambda view: natural_key(view.name))
    check_poses(torch.stack([view.camera_to_world for view in views]), [f"{sparse}: {view.name}" for view in views])
    return PosedViews(folder, folder / "images", views, files, lambda: _points(model))


def _read_model(files: tuple[Path, ...]) -> tuple[Any, dict[int, str]]:
    """Read the model through pycolmap, and the names that it would cut at their first space, by image id."""
    import pycolmap

    sparse = files[0].parent
    is_text = files[0].suffix == ".txt"
    try:
        if is_text:
            lines = _image_lines(files[1])
            with TemporaryDirectory() as model:  # as pycolmap expects it: every photo has a line for its keypoints
                for file in files:
                    shutil.copy(file, model)
                text = "".join(f"{line}\n" for pair in lines for line in pair)
                Path(model, "images.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
                if not any(keypoints.strip() for _, keypoints in lines):  # then points cannot refer to them
                    points = [" ".join(line.split()[:8]) for line in _lines(files[2])]
                    Path(model, "points3D.txt").write_text("\n".join(points), encoding="utf-8")
                return pycolmap.Reconstruction(model), _names([line for line, _ in lines])
        check_binary_model(sparse)
        return pycolmap.Reconstruction(str(sparse)), {}
    except (ValueError, IndexError, RuntimeError, MemoryError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the COLMAP reconstruction in {sparse} cannot be read: {error}") from error


def _count_images(file: Path) -> int:
    """Count the photos of a model, in ``images.bin`` or ``images.txt``."""
    if file.suffix == ".txt":
        return sum(map(_is_photo, _lines(file)))
    with file.open("rb") as stream:
        return int.from_bytes(stream.read(8), "little")


def _lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [line for line in text.splitlines() if not line.startswith("#")]


def _image_lines(file: Path) -> list[tuple[str, str]]:
    """Pair each photo's line of ``images.txt`` with that of its keypoints, which files made by hand may lack."""
    lines = _lines(file)
    photos = [line for line in lines if line.strip()]
    if not all(map(_is_photo, photos)):
        return list(zip_longest(lines[::2], lines[1::2], fillvalue=""))
    if len(photos) > len(lines[::2]):
        logger.warning("%s has no lines of keypoints; each of its %d lines is taken for a photo", file, len(photos))
    return [(line, "") for line in photos]


def _is_photo(line: str) -> bool:
    """Whether a line is ``id qw qx qy qz tx ty tz camera name``; one of keypoints holds threes of numbers."""
    fields = line.split()
    return (
        len(fields) >= 10
        and all(map(_is_number, fields[:9]))
        and not (len(fields) % 3 == 0 and all(map(_is_number, fields)))
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _names(lines: list[str]) -> dict[int, str]:
    """Names by image id; pycolmap ends a name at its first space."""
    fields = [line.split(maxsplit=9) for line in lines]
    return {int(parts[0]): parts[9].strip() for parts in fields if len(parts) == 10}


def _pose(image: Any) -> Float[Tensor, "4 4"]:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.from_numpy(image.cam_from_world().inverse().matrix())
    return pose


def _seen(image: Any, index: dict[int, int], points: Path) -> Int[Tensor, " k"]:
    ids = [keypoint.point3D_id for keypoint in image.points2D if keypoint.has_point3D()]
    if missing := [point for point in ids if point not in index]:
        raise InputError(f"{points} has no point {missing[0]}, which photo {image.image_id} shows")
    return torch.tensor([index[point] for point in ids], dtype=torch.long)


def _points(model: Any) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    points = list(model.points3D.values())
    if not points:
        return torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3)
    xyz = np.stack([point.xyz for point in points])
    rgb = np.stack([point.color for point in points]).astype(np.float32) / 255
    return torch.from_numpy(xyz), torch.from_numpy(rgb)
