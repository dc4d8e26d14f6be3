# SPDX-License-Identifier: Apache-2.0
"""A small scene of Gaussians, its photos, and captures made of them."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData, PlyElement

from harmonizer_ns.types import Cameras


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


def write_points(file: Path, points: torch.Tensor, colors: torch.Tensor) -> None:
    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.empty(len(points), dtype=kinds)
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i].numpy()
    for i, channel in enumerate(("red", "green", "blue")):
        rows[channel] = (colors[:, i] * 255).round().numpy()
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(file))
