# SPDX-License-Identifier: Apache-2.0
"""Masks come from 3D boxes, as driving data sets have them: ``boxes.json`` beside ``transforms.json``.

A list of ``{"center": [x, y, z], "size": [x, y, z], "rotation": R}`` in the world of ``transforms.json``;
``size`` holds whole lengths along the box's own axes, and ``R``, optional, takes these axes to the world: a quaternion
``[w, x, y, z]`` or three rows of a matrix.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import check_poses, quaternion_to_rotation
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.types import Cameras

_NEAR = 1e-3  # of the box's diagonal: what is nearer to the camera's plane is cut off
_EDGES = [(a, b) for a, b in itertools.combinations(range(8), 2) if (a ^ b).bit_count() == 1]


def box_mask(clip: Clip, path: Path, seed: int) -> Bool[Tensor, "n 1 h w"]:
    """Mask one box, drawn among those that are seen, in each frame.

    Raises:
        InputError: without cameras, on a file that is missing or wrong, or when no box is seen.
    """
    if clip.cameras is None:
        raise InputError(f"boxes need cameras: {clip.files[0]} belongs to no capture of undistorted photos")
    masks = [project_box(corners, clip.cameras) for corners in read_boxes(path)]
    seen = [mask for mask in masks if mask.any()]
    if not seen:
        raise InputError(f"none of the {len(masks)} boxes in {path} is seen in {clip.files[0]} and its neighbours")
    return random.Random(seed).choice(seen)


def read_boxes(path: Path) -> list[Float[np.ndarray, "8 3"]]:
    """Read the corners of each box, in the world; bits 0, 1 and 2 of a corner's number say on which side it lies.

    Raises:
        InputError: naming the file and the box that is wrong.
    """
    try:
        boxes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the boxes {path}: {error}") from error
    if not isinstance(boxes, list) or not boxes:
        raise InputError(f"{path} should hold a list of boxes")
    try:
        return [_corners(box) for box in boxes]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds a box without good center, size and rotation: {error}") from error


def _corners(box: dict[str, Any]) -> Float[np.ndarray, "8 3"]:
    center, size = (np.asarray(box[key], dtype=np.float64) for key in ("center", "size"))
    rotation = _rotation(np.asarray(box.get("rotation", [1, 0, 0, 0]), dtype=np.float64))
    if center.shape != (3,) or size.shape != (3,) or not np.isfinite([center, size]).all() or (size <= 0).any():
        raise ValueError(f"center {box['center']}, size {box['size']}")
    signs = np.array([[1 if corner >> axis & 1 else -1 for axis in range(3)] for corner in range(8)])
    return center + (signs * size / 2) @ rotation.T


def _rotation(given: np.ndarray) -> Float[np.ndarray, "3 3"]:
    if given.shape == (4,) and np.isfinite(given).all() and given.any():
        return quaternion_to_rotation(torch.from_numpy(given / np.linalg.norm(given))).numpy()
    if given.shape != (3, 3):
        raise ValueError(f"rotation {given.tolist()} is neither a quaternion (w, x, y, z) nor a matrix")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(given)
    check_poses(pose[None], ["the box"])
    return given


def project_box(corners: Float[np.ndarray, "8 3"], cameras: Cameras) -> Bool[Tensor, "n 1 h w"]:
    """Mask the pixels whose centres lie in the convex outline of the box; what is behind a camera is cut off."""
    near = _NEAR * float(np.linalg.norm(corners[7] - corners[0]))
    masks = []
    for matrix, intrinsics in zip(cameras.world_to_camera.double(), cameras.intrinsics.double(), strict=True):
        local = corners @ matrix[:3, :3].cpu().numpy().T + matrix[:3, 3].cpu().numpy()
        points = _in_front(local, near) @ intrinsics.cpu().numpy().T
        masks.append(_fill(points[:, :2] / points[:, 2:], cameras.width, cameras.height))
    return torch.from_numpy(np.stack(masks))[:, None].to(cameras.camera_to_world.device)


def _in_front(corners: Float[np.ndarray, "8 3"], near: float) -> Float[np.ndarray, "p 3"]:
    """Find corners of the part of the box that is beyond ``z = near``."""
    points = list(corners[corners[:, 2] > near])
    for a, b in _EDGES:
        first, last = corners[a], corners[b]
        if (first[2] > near) != (last[2] > near):
            points.append(first + (last - first) * (near - first[2]) / (last[2] - first[2]))
    return np.array(points).reshape(-1, 3)


def _fill(points: Float[np.ndarray, "p 2"], width: int, height: int) -> Bool[np.ndarray, "h w"]:
    """Fill pixels on the inner side of every edge of the convex hull; far corners would overflow OpenCV's integers."""
    import cv2

    if len(points) < 3:
        return np.zeros((height, width), dtype=bool)
    hull = cv2.convexHull(points.astype(np.float32), clockwise=False)[:, 0].astype(np.float64)
    ys, xs = np.mgrid[:height, :width] + 0.5
    inside = np.ones((height, width), dtype=bool)
    for (ax, ay), (bx, by) in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        inside &= (bx - ax) * (ys - ay) - (by - ay) * (xs - ax) >= 0
    return inside
