# SPDX-License-Identifier: Apache-2.0
"""Small pairs on disk whose colours say where a pixel was, for tests."""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from harmonizer_ns.images import save_image
from harmonizer_ns.pairs import Pair
from harmonizer_ns.types import Cameras, cat_cameras
from harmonizer_ns.warp import pixel_grid

WIDTH, HEIGHT = 48, 32


def coordinates(width=WIDTH, height=HEIGHT, blue=0.0):
    """Red is x / width, green is y / height, at pixel centres."""
    x, y = (pixel_grid(width, height) / torch.tensor([width, height])).unbind(-1)
    return torch.stack([x, y, torch.full_like(x, blue)])


def toy_camera(x=0.0):
    pose = torch.eye(4)
    pose[0, 3] = x
    K = [[40.0, 0.0, WIDTH / 2], [0.0, 40.0, HEIGHT / 2], [0.0, 0.0, 1.0]]
    return Cameras(pose[None], torch.tensor([K]), WIDTH, HEIGHT)


def write_pair(folder: Path, name: str, references=0, mask=False, geometry=False, **values) -> Pair:
    """Image (blue 0.2), target (blue 0.8), references (0.4), depth 1 + x / width, and so on."""
    folder.mkdir(parents=True, exist_ok=True)

    def image(kind: str, blue: float) -> Path:
        path = folder / f"{name}_{kind}.png"
        save_image(path, coordinates(blue=blue))
        return path

    pair = Pair(
        name,
        image("image", 0.2),
        image("target", 0.8),
        tuple(image(f"reference{i}", 0.4 + 0.1 * i) for i in range(references)),
        mask=image("mask", 0.0) if mask else None,
        **values,
    )
    if not geometry:
        return pair
    depth = 1 + coordinates()[0]
    path = folder / f"{name}.safetensors"
    save_file({"depth": depth, "alpha": depth / 2, "reference_depths": depth.expand(references, -1, -1).clone()}, path)
    cameras = cat_cameras([toy_camera(), *(toy_camera(1.0 + i) for i in range(references))])
    return Pair(**{**vars(pair), "depth": path, "cameras": cameras})


def plane_pair(folder: Path, baseline: float, width: int = 96, height: int = 96) -> Pair:
    """A textured plane at depth 4, damaged in its right half, and photos of it from both sides, all cameras parallel.

    Red says where a point of the plane is, from left to right.
    """

    def look(x: float) -> torch.Tensor:
        across, down = (4 * (pixel_grid(width, height) / width - 0.5)).unbind(-1)
        waves = [0.5 + 0.4 * torch.sin(f * (across + x) + g * down) for f, g in ((2, 4), (5, -2))]
        return torch.stack([0.5 + (across + x) / 8, *waves])

    target, positions = look(0), (baseline, -baseline)
    image = target.clone()
    image[:, :, width // 2 :] = (image[:, :, width // 2 :] + 0.2).clamp(0, 1)
    paths = [folder / f"{name}.png" for name in ("image", "target", "photo0", "photo1")]
    for path, picture in zip(paths, (image, target, *map(look, positions)), strict=True):
        save_image(path, picture)
    depth = torch.full((height, width), 4.0)
    save_file({"depth": depth, "reference_depths": depth.expand(2, -1, -1).clone()}, folder / "depth.safetensors")
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[1:, 0, 3] = torch.tensor(positions)
    cameras = Cameras(poses, intrinsics.expand(3, 3, 3), width, height)
    return Pair("plane", *paths[:2], tuple(paths[2:]), depth=folder / "depth.safetensors", cameras=cameras)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def resize_file(path: Path, width: int, height: int) -> None:
    with Image.open(path) as image:
        smaller = image.resize((width, height))
    smaller.save(path)
