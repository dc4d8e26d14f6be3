# SPDX-License-Identifier: Apache-2.0
"""Read nerfstudio's ``transforms.json`` with lenses of its kinds, as posed views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.photos import check_photos
from harmonizer_ns.captures.pointcloud import read_point_cloud
from harmonizer_ns.captures.posed import PosedViews, View
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json
from harmonizer_ns.media import natural_key
from harmonizer_ns.poses import check_poses, flip_axes, matrix_from_json

_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


def read_transforms(folder: Path) -> PosedViews:
    """Read the capture of a folder with ``transforms.json``.

    Raises:
        InputError: on a missing or malformed file, a lens that cannot be undistorted, or broken poses.
    """
    file = folder / "transforms.json"
    meta, poses = _posed_frames(file)
    views = [
        View(frame["file_path"], pose, _lens({**meta, **frame}, f"{file}: {frame['file_path']}"), _mask(folder, frame))
        for frame, pose in zip(meta["frames"], flip_axes(poses).float(), strict=True)
    ]
    cloud = _point_cloud(file, meta)
    train, test = (tuple(meta.get(key) or ()) for key in ("train_filenames", "test_filenames"))
    test = test or tuple(meta.get("val_filenames") or ())
    described_by = (file, cloud) if cloud else (file,)
    applied = _applied(meta, file)
    return PosedViews(folder, folder, views, described_by, lambda: _seed_points(cloud), train, test, applied)


def check_transforms(data: Path) -> None:
    """Check a capture that nerfstudio will load: all but its lenses, of which nerfstudio knows more than we do.

    Args:
        data: the folder, or the JSON file itself.

    Raises:
        InputError: naming the file, and the frame or the photos that cannot be used.
    """
    file = data if data.suffix == ".json" else data / "transforms.json"
    meta, _ = _posed_frames(file)
    check_photos([file.parent / frame["file_path"] for frame in meta["frames"]])
    _point_cloud(file, meta)


def _posed_frames(file: Path) -> tuple[dict[str, Any], Float[Tensor, "n 4 4"]]:
    """Read the file's content, frames in natural order, and their poses with the file's OpenGL axes."""
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a folder that holds a transforms.json and its photos")
    meta = read_json(file)
    frames = meta.get("frames")
    if not isinstance(frames, list):
        raise InputError(f"{file} is not a nerfstudio transforms.json: it has no list of frames")
    if not frames:
        raise InputError(f"{file} lists no frames; capture or process some photos first (ns-process-data)")
    for number, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise InputError(f"{file} is not a nerfstudio transforms.json: frame {number} has no file_path")
    frames.sort(key=lambda frame: natural_key(frame["file_path"]))
    names = [f"{file}: {frame['file_path']}" for frame in frames]
    poses = [
        matrix_from_json(frame.get("transform_matrix"), (4, 4), f"{name}: transform_matrix")
        for name, frame in zip(names, frames, strict=True)
    ]
    check_poses(torch.stack(poses), names)
    return meta, torch.stack(poses)


def _lens(frame: dict[str, Any], where: str) -> Any:
    """Describe the lens as COLMAP does."""
    import pycolmap

    model = frame.get("camera_model", "OPENCV")
    if model not in (*_PERSPECTIVE, "OPENCV_FISHEYE"):
        known = ", ".join((*_PERSPECTIVE, "OPENCV_FISHEYE"))
        raise InputError(f"{where}: unknown camera_model {model!r}; known are {known}")
    try:
        width, height = int(frame["w"]), int(frame["h"])
        fl_y = frame["fl_x"] if frame.get("fl_y") is None else frame["fl_y"]
        pinhole = [float(value) for value in (frame["fl_x"], fl_y, frame["cx"], frame["cy"])]
        k1, k2, k3, k4, p1, p2 = (float(frame.get(key) or 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    except KeyError as error:
        raise InputError(f"{where}: transforms.json gives no {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: intrinsics must be numbers: {error}") from error
    if model == "OPENCV_FISHEYE":
        return pycolmap.Camera(model=model, width=width, height=height, params=[*pinhole, k1, k2, k3, k4])
    if k4:
        raise InputError(f"{where}: a perspective lens with k4={k4} is not known; undistort the photos first")
    if not any((k1, k2, k3, p1, p2)):
        return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=pinhole)
    params = [*pinhole, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
    return pycolmap.Camera(model="FULL_OPENCV", width=width, height=height, params=params)


def _mask(folder: Path, frame: dict[str, Any]) -> Path | None:
    return folder / frame["mask_path"] if frame.get("mask_path") else None


def _point_cloud(file: Path, meta: dict[str, Any]) -> Path | None:
    """Find the file of the seed points; None for a capture without."""
    declared = meta.get("ply_file_path")
    cloud = file.parent / (declared or "sparse_pc.ply")
    if not cloud.is_file() and declared:
        raise InputError(f"{file} names the point cloud {cloud}, which does not exist")
    return cloud if cloud.is_file() else None


def _seed_points(cloud: Path | None) -> tuple[Tensor, Tensor]:
    return read_point_cloud(cloud) if cloud else (torch.zeros(0, 3), torch.zeros(0, 3))


def _applied(meta: dict[str, Any], file: Path) -> Float[Tensor, "4 4"]:
    applied, given, scale = torch.eye(4), meta.get("applied_transform"), meta.get("applied_scale", 1.0)
    if not isinstance(scale, int | float):
        raise InputError(f"{file}: applied_scale should be a number, got {scale!r}")
    if given is not None:
        rows = given[:3] if isinstance(given, list) else given  # some write the last row, too
        applied[:3] = matrix_from_json(rows, (3, 4), f"{file}: applied_transform")
    applied[:3] *= scale
    return applied
