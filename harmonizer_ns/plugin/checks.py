# SPDX-License-Identifier: Apache-2.0
"""Checks of a capture before anything is built from it; each failure is one `InputError` that names the thing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin.cameras import opencv_poses
from harmonizer_ns.poses import check_poses

MIN_PHOTOS = 2
MIN_POINTS = 4
"""Splatfacto sizes each Gaussian by its three nearest neighbours."""
MAX_NAMED = 8
"""At most so many offending files are named in one message."""


def check_transforms(data: Path) -> None:
    """Check a ``transforms.json`` capture: it lists photos that exist and poses that are rigid.

    Args:
        data: the folder, or the JSON file itself.

    Raises:
        InputError: naming the file and the frame.
    """
    file = data if data.suffix == ".json" else data / "transforms.json"
    meta = _read_transforms(file)
    frames = meta["frames"]
    if not frames:
        raise InputError(f"{file} lists no frames; capture or process some photos first (ns-process-data)")
    names = [frame["file_path"] for frame in frames]
    try:
        check_poses(torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64), names)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: {error}") from error
    check_photos([file.parent / name for name in names])
    cloud = meta.get("ply_file_path")
    if cloud is not None and not (file.parent / cloud).is_file():
        raise InputError(f"{file} names the point cloud {file.parent / cloud}, which does not exist")


def _read_transforms(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file} does not exist; give --data a folder that holds a transforms.json")
    try:
        meta = json.loads(file.read_text(encoding="utf8"))
        complete = all({"file_path", "transform_matrix"} <= frame.keys() for frame in meta["frames"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a nerfstudio transforms.json: {error!r}") from error
    if not complete:
        raise InputError(f"{file} is not a nerfstudio transforms.json: a frame lacks file_path or transform_matrix")
    return meta


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
    try:
        check_poses(opencv_poses(outputs.cameras.camera_to_worlds), [file.name for file in files])
    except ValueError as error:
        raise InputError(str(error)) from error
    points = outputs.metadata.get("points3D_xyz")
    if needs_points and (points is None or len(points) < MIN_POINTS):
        raise InputError(
            f"{0 if points is None else len(points)} seed points found, a splat needs at least {MIN_POINTS}: point "
            "ply_file_path in transforms.json at a point cloud, or start from random points with "
            "--pipeline.model.random-init True"
        )


def check_photos(files: list[Path]) -> None:
    """Decode every photo (JPEGs at an eighth of their size, which still reads them to the end).

    Raises:
        InputError: naming every missing, truncated or unreadable file at once.
    """
    with ThreadPoolExecutor() as pool:
        problems = [problem for problem in pool.map(_photo_problem, files) if problem]
    if problems:
        more = f" and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise InputError(f"{len(problems)} photos cannot be used: {'; '.join(problems[:MAX_NAMED])}{more}")


def _photo_problem(file: Path) -> str | None:
    if not file.is_file():
        return f"{file} is missing"
    try:
        with Image.open(file) as image:
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except (OSError, SyntaxError) as error:  # PIL reports some broken PNGs as SyntaxError
        return f"{file} is broken ({error})"
    return None
