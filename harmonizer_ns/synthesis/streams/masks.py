# SPDX-License-Identifier: Apache-2.0
"""Label maps and masks of frames: from files, or by colour and place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import resize
from harmonizer_ns.synthesis.streams.base import Clip

_CLUSTER_WIDTH = 96
_ROUNDS = 8


def read_labels(folder: str, frame: Path, height: int, width: int) -> Int[Tensor, "h w"]:
    """The label map of a frame: ``folder/NAME.png``, the folder relative to that of the frame's scene.

    Raises:
        InputError: naming the map that is missing or unreadable.
    """
    from PIL import Image

    scene = frame.parent.parent if frame.parent.name == "images" else frame.parent
    path = scene / folder / f"{frame.stem}.png"
    try:
        with Image.open(path) as opened:
            labels = opened if opened.mode in ("L", "P", "I;16", "I", "1") else opened.convert("L")
            pixels = np.array(labels.resize((width, height), Image.Resampling.NEAREST)).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the mask {path} of {frame}: {error}") from error
    return torch.from_numpy(pixels)


def segments(clip: Clip, count: int, seed: int) -> Int[Tensor, "n h w"]:
    """Label maps by k-means on colour and place; the centres come from the first frame, so labels last over a clip."""
    features = _features(clip.frames)
    points = features[0].flatten(1).T
    generator = torch.Generator().manual_seed(seed)
    centers = points[torch.randperm(len(points), generator=generator)[:count]]
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centers).argmin(1)
        hits = torch.bincount(nearest, minlength=len(centers)).clamp(min=1)
        centers = torch.zeros_like(centers).index_add_(0, nearest, points) / hits[:, None]
    labels = torch.cdist(features.flatten(2).transpose(1, 2), centers[None]).argmin(2)
    small = labels.view(len(clip.frames), 1, *features.shape[-2:]).float()
    return F.interpolate(small, clip.frames.shape[-2:], mode="nearest")[:, 0].long()


def _features(frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 5 a b"]:
    height, width = frames.shape[-2:]
    small_width = min(width, _CLUSTER_WIDTH)
    small_height = max(1, round(height * small_width / width))
    small = resize(frames, small_height, small_width)
    ys, xs = torch.meshgrid(torch.linspace(0, 1, small_height), torch.linspace(0, 1, small_width), indexing="ij")
    place = torch.stack([xs, ys])[None].expand(len(frames), -1, -1, -1)
    return torch.cat([small, 0.6 * place], dim=1)


def feather(mask: Float[Tensor, "n 1 h w"], pixels: int) -> Float[Tensor, "n 1 h w"]:
    """Soften edges inward over about ``pixels``: what was 0 stays 0."""
    if pixels < 1:
        return mask
    inner = -F.max_pool2d(-mask, 2 * pixels + 1, 1, pixels)
    soft = F.avg_pool2d(inner, 2 * pixels + 1, 1, pixels, count_include_pad=False)
    return torch.where(mask > 0, soft, torch.zeros_like(soft)).clamp(0, 1)
