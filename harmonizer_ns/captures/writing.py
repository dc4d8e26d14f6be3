# SPDX-License-Identifier: Apache-2.0
"""Captures are written in nerfstudio's format: PNGs at the cameras' sizes, seed points, and who trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from harmonizer_ns.captures.capture import Capture, Photo
from harmonizer_ns.captures.pointcloud import write_point_cloud
from harmonizer_ns.files import write_json
from harmonizer_ns.images import to_uint8
from harmonizer_ns.poses import flip_axes
from harmonizer_ns.types import Cameras


def write_transforms(
    folder: Path, capture: Capture, photos: Sequence[int], read: Callable[[int], Photo] | None = None
) -> None:
    """Write some photos of a capture, their masks, all its seed points, and its split as far as it concerns them.

    Args:
        folder: exists, and is empty.
        capture: in whatever frame it is; what is written stays in it.
        photos: indices.
        read: gives a photo at its camera's size; None: as the capture does.
    """
    read, names = read or capture.read, {i: f"images/{i:05d}_{Path(capture.names[i]).stem}.png" for i in photos}
    frames = []
    for index in photos:
        photo, mask = read(index)
        frame = {"file_path": names[index], **_lens(capture.cameras[index])}
        _save(folder / names[index], photo.permute(1, 2, 0).numpy())
        if mask is not None:
            frame["mask_path"] = names[index].replace("images/", "masks/", 1)
            _save(folder / frame["mask_path"], mask[0].byte().numpy() * 255)
        frames.append(frame)
    write_point_cloud(folder / "sparse_pc.ply", capture.points.numpy(), to_uint8(capture.colors).numpy())
    train, test = ([names[i] for i in part if i in names] for part in (capture.train, capture.test))
    split = {"train_filenames": train, "val_filenames": test, "test_filenames": test}
    head = {"camera_model": "PINHOLE", "orientation_override": "none", "ply_file_path": "sparse_pc.ply"}
    write_json(folder / "transforms.json", {**head, **split, "frames": frames})


def _lens(camera: Cameras) -> dict[str, Any]:
    matrix, pose = camera.intrinsics[0].double(), flip_axes(camera.camera_to_world[0].double())
    focal = {"fl_x": matrix[0, 0].item(), "fl_y": matrix[1, 1].item()}
    center = {"cx": matrix[0, 2].item(), "cy": matrix[1, 2].item()}
    return {"w": camera.width, "h": camera.height, **focal, **center, "transform_matrix": pose.tolist()}


def _save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
