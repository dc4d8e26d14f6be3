# SPDX-License-Identifier: Apache-2.0
"""Read a posed capture (nerfstudio's ``transforms.json``) without nerfstudio.

``transforms.json`` keeps camera-to-world matrices with OpenGL axes (y up, z backward); columns 1 and 2 are negated
here, so everything after this file has the project's OpenCV axes. The world frame, and with it the seed points of
``ply_file_path``, stays as it is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from harmonizer_ns.captures.pointcloud import read_point_cloud
from harmonizer_ns.types import Cameras, Frames

_INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV")


@dataclass(frozen=True)
class Capture:
    """Photos with cameras and seed points.

    Args:
        name: the folder's name.
        filenames: path of each photo as written in ``transforms.json``, in capture (natural) order.
        photos: one batch of one per photo; alpha is 1 (or the file's alpha channel), depth is 0 (unknown).
        points: seed points in world coordinates; empty when the capture has none.
        colors: their colours in [0, 1].
        train: indices of ``train_filenames``; empty when the capture names none.
        test: indices of ``test_filenames`` (or ``val_filenames``); empty when the capture names none.
        folder: where it was loaded from; what lies beside it, such as masks, is found there.
    """

    name: str
    filenames: tuple[str, ...]
    photos: list[Frames]
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    train: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.photos)

    def to(self, device: torch.device | str) -> Capture:
        """The same capture on ``device``."""
        photos = [photo.to(device) for photo in self.photos]
        return replace(self, photos=photos, points=self.points.to(device), colors=self.colors.to(device))


def load_capture(folder: Path | str, width: int | None = None) -> Capture:
    """Load a capture, by choice resized.

    Args:
        folder: holds ``transforms.json``; images and seed points are found relative to it.
        width: width of the returned photos in pixels (antialiased, aspect kept, intrinsics scaled); None keeps sizes.

    Raises:
        FileNotFoundError: without ``transforms.json`` or with missing images (all are named).
        ValueError: on no frames, missing intrinsics, lens distortion, poses that are not finite rigid transforms,
            or images that cannot be decoded or have another size than declared (all are named).
    """
    folder = Path(folder)
    if width is not None and width < 1:
        raise ValueError(f"width must be positive, got {width}")
    meta = _read_meta(folder)
    filenames, cameras = _read_cameras(meta)
    photos = _read_photos(folder, filenames, cameras, width)
    points, colors = _read_seed_points(folder, meta.get("ply_file_path"))
    train, test = (
        _indices(filenames, meta, keys) for keys in (("train_filenames",), ("test_filenames", "val_filenames"))
    )
    return Capture(folder.resolve().name, filenames, photos, points, colors, train, test, folder.resolve())


def load_cameras(folder: Path | str) -> dict[str, Cameras]:
    """The cameras of a capture by file name, in capture order; its images are not opened.

    Raises:
        FileNotFoundError: without ``transforms.json``.
        ValueError: as `load_capture`, but for what is wrong with images.
    """
    return dict(zip(*_read_cameras(_read_meta(Path(folder))), strict=True))


def capture_files(folder: Path | str) -> tuple[str, ...]:
    """All that `load_capture` reads, relative to the folder: ``transforms.json``, the images, seed points if any.

    Raises:
        FileNotFoundError, ValueError: as `load_cameras`.
    """
    meta = _read_meta(Path(folder))
    declared = meta.get("ply_file_path")
    points = declared or "sparse_pc.ply"
    has_points = declared or (Path(folder) / points).is_file()
    return ("transforms.json", *_read_cameras(meta)[0], *([points] if has_points else []))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that counts: ``frame_2`` comes before ``frame_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "transforms.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: a capture is a folder with transforms.json and its images")
    meta = json.loads(path.read_text())
    if not isinstance(meta, dict) or not meta.get("frames"):
        raise ValueError(f"{path} has no frames")
    model = meta.get("camera_model", "PINHOLE")
    if model not in _PINHOLE_MODELS:
        raise ValueError(f"{path}: camera_model {model} is not supported, undistort to one of {_PINHOLE_MODELS}")
    return meta


def _read_cameras(meta: dict[str, Any]) -> tuple[tuple[str, ...], list[Cameras]]:
    """File names in natural order, and for each a batch of one."""
    frames = sorted(meta["frames"], key=lambda frame: natural_key(frame["file_path"]))
    cameras = [_camera(meta, frame, pose) for frame, pose in zip(frames, _read_poses(frames), strict=True)]
    return tuple(frame["file_path"] for frame in frames), cameras


def _read_poses(frames: list[dict[str, Any]]) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world with OpenCV axes."""
    poses, bad = [], []
    for frame in frames:
        pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
        if _is_rigid(pose):
            poses.append(pose)
        else:
            bad.append(frame["file_path"])
    if bad:
        raise ValueError(f"{len(bad)} of {len(frames)} poses are not finite rigid 4x4 transforms: {', '.join(bad)}")
    return torch.from_numpy(np.stack(poses) * [1.0, -1.0, -1.0, 1.0]).float()


def _is_rigid(pose: np.ndarray) -> bool:
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        return False
    rotation = pose[:3, :3]
    return bool(np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) and np.linalg.det(rotation) > 0)


def _camera(meta: dict[str, Any], frame: dict[str, Any], pose: Float[Tensor, "4 4"]) -> Cameras:
    """The frame's pinhole camera; its own intrinsics win over the shared ones."""
    given = {key: frame.get(key, meta.get(key)) for key in _INTRINSICS}
    given["fl_y"] = given["fl_x"] if given["fl_y"] is None else given["fl_y"]
    values = {key: float(value) for key, value in given.items() if value is not None}
    if len(values) < len(given):
        missing = ", ".join(key for key in given if key not in values)
        raise ValueError(f"{frame['file_path']}: transforms.json gives no {missing}")
    distortion = {key: frame.get(key, meta.get(key, 0.0)) for key in _DISTORTION}
    if any(distortion.values()):
        raise ValueError(f"{frame['file_path']} has lens distortion {distortion}: undistort the capture first")
    intrinsics = torch.tensor(
        [[values["fl_x"], 0.0, values["cx"]], [0.0, values["fl_y"], values["cy"]], [0.0, 0.0, 1.0]]
    )
    return Cameras(pose[None], intrinsics[None], int(values["w"]), int(values["h"]))


def _read_photos(folder: Path, filenames: tuple[str, ...], cameras: list[Cameras], width: int | None) -> list[Frames]:
    missing = [name for name in filenames if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(filenames)} images are missing in {folder}: {', '.join(missing)}"
        )
    photos = [_read_photo(folder / name, camera, width) for name, camera in zip(filenames, cameras, strict=True)]
    broken = [f"{name} ({photo})" for name, photo in zip(filenames, photos, strict=True) if isinstance(photo, str)]
    if broken:
        raise ValueError(f"{len(broken)} of {len(filenames)} images in {folder} cannot be used: {'; '.join(broken)}")
    return [photo for photo in photos if isinstance(photo, Frames)]


def _read_photo(path: Path, camera: Cameras, width: int | None) -> Frames | str:
    """The photo, or what is wrong with the file: the caller names all broken files at once."""
    try:
        with Image.open(path) as image:
            image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except OSError as error:
        return str(error)
    if image.size != (camera.width, camera.height):
        return f"has size {image.size}, transforms.json says {(camera.width, camera.height)}"
    if width is not None and width != camera.width:
        camera = camera.resized(width, max(1, round(camera.height * width / camera.width)))
        image = image.resize((camera.width, camera.height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    alpha = pixels[:, 3:] if pixels.shape[1] == 4 else torch.ones_like(pixels[:, :1])
    return Frames(pixels[:, :3] * alpha, alpha, torch.zeros_like(alpha), camera)


def _read_seed_points(folder: Path, declared: str | None) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    path = folder / (declared or "sparse_pc.ply")
    if not path.is_file():
        if declared:
            raise FileNotFoundError(f"transforms.json names seed points {path}, which do not exist")
        return torch.zeros(0, 3), torch.zeros(0, 3)
    return read_point_cloud(path)


def _indices(filenames: tuple[str, ...], meta: dict[str, Any], keys: tuple[str, ...]) -> tuple[int, ...]:
    """Positions of the files named under the first of ``keys`` that is present."""
    named = next((meta[key] for key in keys if meta.get(key)), [])
    position = {name: i for i, name in enumerate(filenames)}
    unknown = [name for name in named if name not in position]
    if unknown:
        raise ValueError(f"transforms.json splits on files without a frame: {', '.join(unknown)}")
    return tuple(sorted(position[name] for name in named))
