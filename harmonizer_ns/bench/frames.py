# SPDX-License-Identifier: Apache-2.0
"""Frames for benchmarks: noise, or a folder's images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image
from harmonizer_ns.media import image_files
from harmonizer_ns.training.pairs_data.crops import covered
from harmonizer_ns.types import Cameras, Frames

IMAGES = 8
"""How many images of a folder are used at most."""


def sample_frames(folder: Path | None, height: int, width: int) -> Frames:
    """Two frames of noise, or the first images of a folder, scaled and cropped to that size.

    Raises:
        InputError: when the folder has no images, or one that cannot be read.
    """
    if folder is None:
        return random_frames(2, height, width)
    images = [covered(load_image(path), height, width) for path in image_files(folder)[:IMAGES]]
    return replace(random_frames(len(images), height, width), rgb=torch.stack(images))


def random_frames(count: int, height: int, width: int) -> Frames:
    """Noise on a plane at depth 3, seen by cameras side by side."""
    generator = torch.Generator().manual_seed(0)
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, 0, 3] = 0.1 * torch.arange(count)
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(count, 1, 1)
    return Frames(
        torch.rand(count, 3, height, width, generator=generator),
        torch.ones(count, 1, height, width),
        torch.full((count, 1, height, width), 3.0),
        Cameras(pose, intrinsics, width, height),
    )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of ``WIDTHxHEIGHT``.

    Raises:
        InputError: on anything else.
    """
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InputError(f"a size is WIDTHxHEIGHT, for example 1024x576, not {text!r}")
    return int(width), int(height)
