# SPDX-License-Identifier: Apache-2.0
"""A pairs file of a textured plane that a camera slides along: images, references, depth, cameras, clips."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from harmonizer_ns.images import save_image
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.types import Cameras, cat_cameras

HEIGHT, WIDTH = 32, 48
_DEPTH, _STEP = 4.0, 2  # scene units; pixels that the view moves from frame to frame


def write_clip(folder: Path, frames: int = 8, tests: int = 2, geometry: bool = True, seed: int = 0) -> Path:
    """Frames of one clip, damaged by blur and noise that changes from frame to frame; the path of the pairs file."""
    generator = torch.Generator().manual_seed(seed)
    panorama = _panorama(generator)
    pairs = [_frame(folder, panorama, number, frames, geometry, generator) for number in range(frames + tests)]
    write_pairs(folder / "pairs.json", pairs[:frames], pairs[frames:])
    return folder / "pairs.json"


def write_scenes(folder: Path, scenes: int = 3, frames: int = 4) -> Path:
    """Clips of several scenes, as `harmonizer synthesize` tells of them; the last scene is the test split."""
    pairs = []
    for scene in range(scenes):
        generator, place = torch.Generator().manual_seed(scene), folder / f"scene{scene}"
        panorama, source = (
            _panorama(generator),
            {"scene": f"scene{scene}", "stream": "sparse" if scene % 2 else "cycle"},
        )
        clip = [_frame(place, panorama, number, frames, True, generator) for number in range(frames)]
        pairs += [replace(pair, name=f"{scene}/{pair.name}", clip=f"scene{scene}", source=source) for pair in clip]
    write_pairs(folder / "pairs.json", pairs[:-frames], pairs[-frames:])
    return folder / "pairs.json"


def _panorama(generator: torch.Generator) -> torch.Tensor:
    return F.interpolate(torch.rand(1, 3, 9, 33, generator=generator), (HEIGHT, 4 * WIDTH), mode="bicubic")[0].clamp(
        0, 1
    )


def _frame(folder: Path, panorama, number: int, last: int, geometry: bool, generator) -> Pair:
    target = panorama[:, :, _STEP * number : _STEP * number + WIDTH]
    blurred = F.avg_pool2d(target[None], 5, 1, 2, count_include_pad=False)[0]
    image = (blurred + 0.05 * torch.randn(3, 1, 1, generator=generator)).clamp(0, 1)
    reference = panorama[:, :, _STEP * (number + 1) : _STEP * (number + 1) + WIDTH]
    for name, picture in (("image", image), ("target", target), ("reference", reference)):
        save_image(folder / f"{name}_{number}.png", picture)
    plane = torch.full((HEIGHT, WIDTH), _DEPTH)
    save_file({"depth": plane, "reference_depths": plane[None].clone()}, folder / f"depth_{number}.safetensors")
    return Pair(
        f"frame{number}",
        folder / f"image_{number}.png",
        folder / f"target_{number}.png",
        (folder / f"reference_{number}.png",),
        clip="train" if number < last else "test",
        frame=number,
        depth=folder / f"depth_{number}.safetensors" if geometry else None,
        cameras=cat_cameras([_camera(number), _camera(number + 1)]) if geometry else None,
    )


def _camera(number: int) -> Cameras:
    """With a focal length of 48 pixels, a step of the camera moves the plane by ``_STEP`` pixels."""
    pose = torch.eye(4)
    pose[0, 3] = number * _STEP * _DEPTH / WIDTH
    intrinsics = [[WIDTH, 0.0, WIDTH / 2], [0.0, WIDTH, HEIGHT / 2], [0.0, 0.0, 1.0]]
    return Cameras(pose[None], torch.tensor(intrinsics)[None], WIDTH, HEIGHT)
