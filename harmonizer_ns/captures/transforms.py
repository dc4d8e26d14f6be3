# SPDX-License-Identifier: Apache-2.0
"""Read nerfstudio's ``transforms.json`` with lenses of its kinds, as posed views."""

from __future__ import annotations

import posixpath
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.photos import check_photos, path_inside, shortened
from harmonizer_ns.captures.pointcloud import read_point_cloud
from harmonizer_ns.captures.posed import PosedViews, View
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json
from harmonizer_ns.media import natural_key
from harmonizer_ns.poses import check_poses, flip_axes, matrix_from_json

_READ_BY_NERFSTUDIO = ("RGB", "RGBA", "L")
"""Pillow's modes that nerfstudio 1.1 shows as they are; it takes the bytes of all others for colours."""
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


def read_transforms(folder: Path) -> PosedViews:
    """Read the capture of a folder with ``transforms.json``.

    Raises:
        InputError: on a missing or malformed file, a lens that cannot be undistorted, or broken poses.
    """
    file = folder / "transforms.json"
    meta, poses = _posed_frames(file)
    views = [
        View(frame["file_path"], pose, _lens({**meta, **frame}, f"{file}: {frame['file_path']}"), _mask(file, frame))
        for frame, pose in zip(meta["frames"], flip_axes(poses), strict=True)
    ]
    cloud = _point_cloud(file, meta)
    train, test, validation = (_names(meta, f"{part}_filenames", file) for part in ("train", "test", "val"))
    described_by = (file, cloud) if cloud else (file,)
    applied = _applied(meta, file)
    points = partial(_seed_points, cloud)
    return PosedViews(folder, folder, views, described_by, points, train, test or validation, applied)


def check_transforms(data: Path) -> None:
    """Check a capture that nerfstudio will load: all but its lenses, of which nerfstudio knows more than we do.

    Args:
        data: the folder, or the JSON file itself.

    Raises:
        InputError: naming the file, and the frame or the photos that cannot be used.
    """
    file = data if data.suffix == ".json" else data / "transforms.json"
    meta, _ = _posed_frames(file)
    photos = check_photos([file.parent / frame["file_path"] for frame in meta["frames"]])
    misread = [f"{photo.path} ({photo.mode})" for photo in photos if photo.mode not in _READ_BY_NERFSTUDIO]
    if misread:
        raise InputError(
            f"{len(misread)} photos have channels that nerfstudio would misread, make them 8-bit RGB, RGBA or grey: "
            f"{shortened(misread)}"
        )
    _point_cloud(file, meta)


def read_meta(file: Path) -> dict[str, Any]:
    """Read ``transforms.json`` with all names normalised: relative ones have ``/``, whichever system wrote them.

    Raises:
        InputError: when it is missing, is no JSON, or a frame has no name.
    """
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
        for key in ("file_path", "mask_path", "depth_file_path"):
            _normalise(frame, key, f"{file}: frame {number}")
    _normalise(meta, "ply_file_path", str(file))
    for part in ("train", "test", "val"):
        if f"{part}_filenames" in meta:
            meta[f"{part}_filenames"] = list(_names(meta, f"{part}_filenames", file))
    return meta


def _normalise(entries: dict[str, Any], key: str, where: str) -> None:
    name = entries.get(key)
    if name is None:
        return
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{where}: {key} should be the name of a file, got {name!r}")
    entries[key] = posixpath.normpath(name.replace("\\", "/"))


def _names(meta: dict[str, Any], key: str, file: Path) -> tuple[str, ...]:
    names = meta.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: {key} should be a list of names, got {names!r:.80}")
    return tuple(posixpath.normpath(name.replace("\\", "/")) for name in names)


def _posed_frames(file: Path) -> tuple[dict[str, Any], Float[Tensor, "n 4 4"]]:
    """Read the file's content, frames in natural order, and their poses (float64) with the file's OpenGL axes."""
    meta = read_meta(file)
    frames = meta["frames"]
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
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: intrinsics must be numbers: {error}") from error
    if model == "OPENCV_FISHEYE":
        return pycolmap.Camera(model=model, width=width, height=height, params=[*pinhole, k1, k2, k3, k4])
    if k4:
        raise InputError(f"{where}: a perspective lens with k4={k4} is not known; undistort the photos first")
    if not any((k1, k2, k3, p1, p2)):
        return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=pinhole)
    params = [*pinhole, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
    return pycolmap.Camera(model="FULL_OPENCV", width=width, height=height, params=params)


def _mask(file: Path, frame: dict[str, Any]) -> Path | None:
    if not frame.get("mask_path"):
        return None
    mask = path_inside(file.parent, frame["mask_path"], str(file))
    if not mask.is_file():
        raise InputError(f"the mask {mask} of {frame['file_path']} does not exist")
    return mask


def _point_cloud(file: Path, meta: dict[str, Any]) -> Path | None:
    """Find the file of the seed points; None for a capture without."""
    declared = meta.get("ply_file_path")
    cloud = path_inside(file.parent, declared or "sparse_pc.ply", str(file))
    if not cloud.is_file() and declared:
        raise InputError(f"{file} names the point cloud {cloud}, which does not exist")
    return cloud if cloud.is_file() else None


def _seed_points(cloud: Path | None) -> tuple[Tensor, Tensor]:
    return read_point_cloud(cloud) if cloud else (torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3))


def _applied(meta: dict[str, Any], file: Path) -> Float[Tensor, "4 4"]:
    applied, given, scale = torch.eye(4), meta.get("applied_transform"), meta.get("applied_scale", 1.0)
    if not isinstance(scale, int | float):
        raise InputError(f"{file}: applied_scale should be a number, got {scale!r}")
    if given is not None:
        rows = given[:3] if isinstance(given, list) else given  # some write the last row, too
        applied[:3] = matrix_from_json(rows, (3, 4), f"{file}: applied_transform")
    applied[:3] *= scale
    return applied
