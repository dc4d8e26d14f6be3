# SPDX-License-Identifier: Apache-2.0
"""Rendered captures are written in nerfstudio's format: photos, ``transforms.json``, ``sparse_pc.ply``, camera paths.

Files hold OpenGL camera axes (x right, y up, z backward); everything in memory is OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from harmonizer_ns.captures.pointcloud import write_point_cloud
from harmonizer_ns.files import write_json
from harmonizer_ns.poses import flip_axes
from harmonizer_ns.synthesis.scenes.cameras import Lens, Poses
from harmonizer_ns.synthesis.scenes.seeds import SeedPoints


@dataclass(frozen=True)
class RenderedCapture:
    """A rendered capture holds photos of one static scene in an order, all through one lens.

    Args:
        photos: 8-bit sRGB images.
        poses: camera-to-world with OpenCV axes, metres, z up.
        lens: intrinsics.
        points: seed points.
        names: file names below the capture's folder, sorted.
        held_out: names that are not for training; empty leaves the split to the reader.
    """

    photos: list[UInt8[np.ndarray, "h w 3"]]
    poses: Poses
    lens: Lens
    points: SeedPoints
    names: list[str]
    held_out: list[str] = field(default_factory=list)


def write_capture(folder: Path, capture: RenderedCapture) -> None:
    """Write everything that nerfstudio needs to train on ``capture`` into ``folder``."""
    for name, photo in zip(capture.names, capture.photos, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(folder / name, quality=95, subsampling=0)
    write_point_cloud(folder / "sparse_pc.ply", capture.points.positions, capture.points.colors)
    write_json(folder / "sparse_pc_tracks.json", {"tracks": capture.points.tracks}, indent=None)
    write_json(folder / "transforms.json", _transforms(capture))


def write_camera_path(path: Path, route: Poses, capture_poses: Poses, lens: Lens, fps: float) -> None:
    """Write a path as nerfstudio's viewer exports it and ``ns-render camera-path`` reads it.

    Such files live in nerfstudio's training frame. With the orientation kept, as our ``transforms.json`` asks, and
    nerfstudio's other defaults, that frame is centred at the mean camera of the whole capture and scaled so that the
    largest camera coordinate is 1.
    """
    center = capture_poses[:, :3, 3].mean(axis=0)
    scale = 1 / np.abs(capture_poses[:, :3, 3] - center).max()
    frames = _opengl(route)
    frames[:, :3, 3] = (frames[:, :3, 3] - center) * scale
    seconds, aspect, fov = len(route) / fps, lens.width / lens.height, lens.degrees(lens.height)
    keyframes = [
        {"matrix": pose.ravel().tolist(), "fov": fov, "aspect": aspect, "override_transition_enabled": False}
        for pose in frames[:: max(1, len(frames) // 8)]
    ]
    document = {
        "camera_type": "perspective",
        "render_height": lens.height,
        "render_width": lens.width,
        "fps": fps,
        "seconds": seconds,
        "is_cycle": False,
        "smoothness_value": 0.0,
        "default_fov": fov,
        "default_transition_sec": seconds / max(1, len(keyframes) - 1),
        "keyframes": keyframes,
        "camera_path": [{"camera_to_world": p.ravel().tolist(), "fov": fov, "aspect": aspect} for p in frames],
    }
    write_json(path, document)


def _transforms(capture: RenderedCapture) -> dict[str, object]:
    lens, held_out = capture.lens, set(capture.held_out)
    frames = [
        {"file_path": name, "transform_matrix": pose.tolist()}
        for name, pose in zip(capture.names, _opengl(capture.poses), strict=True)
    ]
    document: dict[str, object] = {
        "camera_model": "OPENCV",
        "fl_x": lens.focal,
        "fl_y": lens.focal,
        "cx": lens.width / 2,
        "cy": lens.height / 2,
        "w": lens.width,
        "h": lens.height,
        "orientation_override": "none",  # z is up already
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }
    if held_out:
        document["train_filenames"] = [name for name in capture.names if name not in held_out]
        document["val_filenames"] = document["test_filenames"] = capture.held_out
    return document


def _opengl(poses: Poses) -> Poses:
    return flip_axes(torch.from_numpy(poses)).numpy()


def numbered(prefix: str, count: int, suffix: str) -> list[str]:
    """Make file names ``images/<prefix>00000<suffix>``, counting from 0."""
    return [f"images/{prefix}{i:05d}{suffix}" for i in range(count)]
