# SPDX-License-Identifier: Apache-2.0
"""A small scene of Gaussians, its photos, and captures made of them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData, PlyElement

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.images import to_uint8
from harmonizer_ns.types import Cameras, Frames


def look_at(position: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Camera-to-world with OpenCV axes; world y points down."""
    forward = torch.nn.functional.normalize(target - position, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward), dim=0)
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, torch.linalg.cross(forward, right), forward
    pose[:3, 3] = position
    return pose


def arc_cameras(count: int, width: int, height: int, span: float = 0.8, distance: float = 4.0) -> Cameras:
    """Cameras on an arc around the origin."""
    angles = torch.linspace(-span / 2, span / 2, count)
    positions = [distance * torch.tensor([math.sin(a), -0.1, -math.cos(a)]) for a in angles]
    poses = torch.stack([look_at(p, torch.zeros(3)) for p in positions])
    focal = 1.2 * width
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(poses, intrinsics.expand(count, 3, 3), width, height)


def gaussian_scene(count: int = 400, seed: int = 0) -> dict[str, torch.Tensor]:
    """A cloud of coloured Gaussians in front of a wall of larger ones."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    means = (uniform(count, 3) - 0.5) * torch.tensor([2.4, 1.8, 1.6])
    wall = (uniform(count, 3) - 0.5) * torch.tensor([8.0, 6.0, 0.0]) + torch.tensor([0.0, 0.0, 1.5])
    return {
        "means": torch.cat([means, wall]),
        "quats": torch.randn(2 * count, 4, generator=generator),
        "scales": torch.cat([0.03 + 0.07 * uniform(count, 3), 0.15 + 0.15 * uniform(count, 3)]),
        "opacities": torch.full((2 * count,), 0.95),
        "colors": uniform(2 * count, 3),
    }


def render_scene(scene: dict[str, torch.Tensor], cameras: Cameras) -> torch.Tensor:
    """Photos of a Gaussian scene, ``n 3 h w``."""
    from harmonizer_ns.raster import rasterization

    rgb, _, _ = rasterization(
        **scene,
        viewmats=cameras.world_to_camera,
        Ks=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        packed=False,
    )
    return rgb.clamp(0, 1).permute(0, 3, 1, 2)


def capture_of(name: str, names: tuple[str, ...], photos: list[Frames], points: torch.Tensor) -> Capture:
    """A capture in memory; photos become bytes, points are grey."""
    cameras = [photo.cameras for photo in photos]
    grey = torch.full_like(points, 0.5)
    return Capture(name, names, cameras, points, grey, lambda i: (to_uint8(photos[i].rgb[0]), None))


def write_capture(
    folder: Path, count: int = 10, width: int = 64, height: int = 48, held_out_every: int = 5, **camera: float
) -> Path:
    """A nerfstudio capture of a Gaussian scene; ``camera`` adds entries such as k1 to transforms.json."""
    scene, cameras = gaussian_scene(), arc_cameras(count, width, height)
    photos = (render_scene(scene, cameras) * 255).round().byte()
    (folder / "images").mkdir(parents=True)
    frames, names = [], [f"images/{i:03d}.png" for i in range(count)]
    for name, photo, pose in zip(names, photos, cameras.camera_to_world, strict=True):
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(folder / name)
        opengl = pose * torch.tensor([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": name, "transform_matrix": opengl.tolist()})
    write_points(folder / "points.ply", scene["means"], scene["colors"])
    held_out = names[held_out_every // 2 :: held_out_every]
    focal = cameras.intrinsics[0, 0, 0].item()
    meta = {
        "w": width,
        "h": height,
        "fl_x": focal,
        "fl_y": focal,
        "cx": width / 2,
        "cy": height / 2,
        "camera_model": "OPENCV",
        "ply_file_path": "points.ply",
        "train_filenames": [name for name in names if name not in held_out],
        "val_filenames": held_out,
        "test_filenames": held_out,
        "frames": frames,
        **camera,
    }
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def write_colmap(folder, count=10, width=64, height=48, text=False, model="PINHOLE", params=None, names=None):
    """A COLMAP capture of the toy scene; every point is seen by every photo whose frustum holds it."""
    import pycolmap

    scene, cameras = gaussian_scene(), arc_cameras(count, width, height)
    photos = (render_scene(scene, cameras) * 255).round().byte()
    names = names or [f"photo {i}.png" for i in range(count)]
    focal = cameras.intrinsics[0, 0, 0].item()
    default = [focal, focal, width / 2, height / 2] if model == "PINHOLE" else [focal, width / 2, height / 2]
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params or default, camera_id=1)
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    world_to_camera = cameras.world_to_camera.double().numpy()
    for i, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[i].permute(1, 2, 0).numpy()).save(path)
        points = [pycolmap.Point2D(np.array([1.0, 1.0])) for _ in range(3)]
        image = pycolmap.Image(name=name, camera_id=1, image_id=i + 1)
        image.points2D = pycolmap.Point2DList(points)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(world_to_camera[i][:3]))
    for k, (xyz, color) in enumerate(zip(scene["means"], scene["colors"], strict=True)):
        track = pycolmap.Track()
        if k < 3:
            for i in range(len(names)):
                track.add_element(i + 1, k)
        reconstruction.add_point3D(xyz.double().numpy(), track, (color * 255).byte().numpy())
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (reconstruction.write_text if text else reconstruction.write_binary)(str(sparse))
    return folder


def move_capture(folder: Path, offset: Sequence[float]) -> Path:
    """Move a capture of `write_capture` far away, in double precision."""
    points = PlyData.read(folder / "points.ply", mmap=False)["vertex"].data
    moved = points.astype([(name, "f8" if name in "xyz" else "u1") for name in points.dtype.names])
    meta = json.loads((folder / "transforms.json").read_text())
    for k, axis in enumerate("xyz"):
        moved[axis] += offset[k]
        for frame in meta["frames"]:
            frame["transform_matrix"][k][3] += offset[k]
    PlyData([PlyElement.describe(moved, "vertex")]).write(folder / "points.ply")
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def write_points(file: Path, points: torch.Tensor, colors: torch.Tensor) -> None:
    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.empty(len(points), dtype=kinds)
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i].numpy()
    for i, channel in enumerate(("red", "green", "blue")):
        rows[channel] = (colors[:, i] * 255).round().numpy()
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(file))


def _flattened(value, name=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flattened(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _flattened(item, f"{name}/{index}")
    else:
        yield name, value


def assert_identical(first, second):
    """Structures of tensors, numbers and strings are equal bit by bit."""
    first, second = dict(_flattened(first)), dict(_flattened(second))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name] or value != value, name
