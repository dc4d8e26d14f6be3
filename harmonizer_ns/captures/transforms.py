# SPDX-License-Identifier: Apache-2.0
"""Read nerfstudio's ``transforms.json`` with lenses of its kinds, as posed views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.colmap import PosedViews, View
from harmonizer_ns.captures.pinhole import natural_key
from harmonizer_ns.captures.pointcloud import read_point_cloud
from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import check_poses, flip_axes

_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


def read_transforms(folder: Path) -> PosedViews:
    """Read the capture of a folder with ``transforms.json``.

    Raises:
        InputError: on a missing or malformed file, a lens that cannot be undistorted, or broken poses.
    """
    path = folder / "transforms.json"
    meta = _read_json(path)
    frames = sorted(meta["frames"], key=lambda frame: natural_key(frame["file_path"]))
    names = [frame["file_path"] for frame in frames]
    poses = _poses(frames, path)
    views = [
        View(name, pose, _lens({**meta, **frame}, f"{path}: {name}"), _mask(folder, frame))
        for name, pose, frame in zip(names, poses, frames, strict=True)
    ]
    points, colors = _seed_points(folder, meta.get("ply_file_path"))
    train, test = (tuple(meta.get(key) or ()) for key in ("train_filenames", "test_filenames"))
    test = test or tuple(meta.get("val_filenames") or ())
    return PosedViews(folder, folder, views, points, colors, train, test, _applied(meta))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) and "file_path" in f for f in frames):
        raise InputError(f"{path} has no frames with a file_path")
    return meta


def _poses(frames: list[dict[str, Any]], path: Path) -> Float[Tensor, "n 4 4"]:
    """OpenGL axes in the file, OpenCV axes here."""
    names = [f"{path}: {frame['file_path']}" for frame in frames]
    try:
        poses = torch.stack([torch.tensor(frame["transform_matrix"], dtype=torch.float32) for frame in frames])
        check_poses(poses, names)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: bad transform_matrix: {error}") from error
    return flip_axes(poses)


def _lens(frame: dict[str, Any], where: str) -> Any:
    """The lens as COLMAP knows it."""
    import pycolmap

    model = frame.get("camera_model", "OPENCV")
    if model not in (*_PERSPECTIVE, "OPENCV_FISHEYE"):
        known = ", ".join((*_PERSPECTIVE, "OPENCV_FISHEYE"))
        raise InputError(f"{where}: unknown camera_model {model!r}; known are {known}")
    try:
        width, height = int(frame["w"]), int(frame["h"])
        pinhole = [frame["fl_x"], frame.get("fl_y", frame["fl_x"]), frame["cx"], frame["cy"]]
        pinhole = [float(value) for value in pinhole]
        k1, k2, k3, k4, p1, p2 = (float(frame.get(key, 0.0)) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
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


def _seed_points(folder: Path, declared: str | None) -> tuple[Tensor, Tensor]:
    path = folder / (declared or "sparse_pc.ply")
    if not declared and not path.is_file():
        return torch.zeros(0, 3), torch.zeros(0, 3)
    return read_point_cloud(path)


def _applied(meta: dict[str, Any]) -> Float[Tensor, "4 4"]:
    applied = torch.eye(4)
    if meta.get("applied_transform") is not None:
        applied[:3] = torch.tensor(meta["applied_transform"], dtype=torch.float32)[:3]
    applied[:3] *= float(meta.get("applied_scale", 1.0))
    return applied
