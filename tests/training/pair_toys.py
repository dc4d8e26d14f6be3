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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def resize_file(path: Path, width: int, height: int) -> None:
    with Image.open(path) as image:
        smaller = image.resize((width, height))
    smaller.save(path)
