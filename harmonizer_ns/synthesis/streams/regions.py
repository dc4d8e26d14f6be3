# SPDX-License-Identifier: Apache-2.0
"""Region-specific degradation: splat-like blur in patches, stronger in some regions than in others."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError
from harmonizer_ns.raster import rasterization
from harmonizer_ns.synthesis.streams.base import Clip, Made
from harmonizer_ns.synthesis.streams.masks import feather, read_labels, segments


@dataclass(frozen=True)
class RegionSettings:
    """How regions are degraded."""

    labels: str = ""
    """Folder of label maps, relative to the scene; empty: segments by colour and place."""
    strengths: dict[str, float] = field(default_factory=dict)
    """Label -> strength in [0, 1]; labels that are not named stay clean. Without any, each is drawn from ``range``."""
    range: tuple[float, float] = (0.0, 0.9)
    """Strengths that are drawn."""
    size: tuple[float, float] = (0.006, 0.014)
    """Size of a splat, as a share of the image's width (standard deviation)."""
    stretch: float = 3.0
    """Largest ratio of a splat's axes."""

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (*self.strengths.values(), *self.range)):
            raise ValueError(f"strengths should be in [0, 1], got {self.strengths or self.range}")
        if not 0 < self.size[0] <= self.size[1] <= 0.2 or self.range[0] > self.range[1] or self.stretch < 1:
            raise ValueError(f"need ranges, 0 < size <= 0.2 and stretch >= 1, got {self}")


def make_regions(clip: Clip, settings: RegionSettings, seed: int) -> list[Made]:
    """Degrade each frame: strengths, splats and patches are the same over the clip.

    Raises:
        InputError: when a label map cannot be read.
    """
    draw = random.Random(seed)
    labels = _labels(clip, settings, seed)
    strengths = settings.strengths or _drawn(labels, settings, draw)
    size = round(draw.uniform(*settings.size), 5)
    masks = _patches(clip.frames.shape[-2:], seed) < _strength_map(labels, strengths)
    parameters = {"strengths": strengths, "size": size, "stretch": settings.stretch}
    made = []
    for frame, mask in zip(clip.frames, _soft(masks[:, None].float()), strict=True):
        blurred = splat_blur(frame, size * frame.shape[-1], settings.stretch, seed)
        made.append(Made(torch.lerp(frame, blurred, mask), mask, parameters))
    return made


def splat_blur(image: Float[Tensor, "3 h w"], size: float, stretch: float, seed: int) -> Float[Tensor, "3 h w"]:
    """The image as random long Gaussians of its colours on one plane, ``size`` pixels wide, over its blurred self."""
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    count = max(4, int(1.5 * height * width / size**2))
    places = torch.rand(count, 2, generator=generator)
    grid = (2 * places - 1)[None, None]
    blurred = F.avg_pool2d(image[None], 2 * round(size) + 1, 1, round(size), count_include_pad=False)
    colors = F.grid_sample(blurred, grid, align_corners=False, padding_mode="border")[0, :, 0].T
    angle = math.pi * torch.rand(count, generator=generator)
    ratio = stretch ** torch.rand(count, generator=generator).sub(0.5)
    zero = torch.zeros(count)
    depth = 1 + 1e-3 * torch.rand(count, generator=generator)
    xy = places * torch.tensor([width, height]) - torch.tensor([width / 2, height / 2])
    rgb, alpha, _ = rasterization(
        means=torch.cat([xy / width * depth[:, None], depth[:, None]], 1),
        quats=torch.stack([(angle / 2).cos(), zero, zero, (angle / 2).sin()], 1),
        scales=torch.stack([ratio, 1 / ratio, torch.full_like(ratio, 1e-3)], 1) * size / width,
        opacities=0.4 + 0.5 * torch.rand(count, generator=generator),
        colors=colors,
        viewmats=torch.eye(4)[None],
        Ks=torch.tensor([[[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]]),
        width=width,
        height=height,
        packed=False,
    )
    return (rgb[0].permute(2, 0, 1) + (1 - alpha[0].permute(2, 0, 1)) * blurred[0]).clamp(0, 1)


def _labels(clip: Clip, settings: RegionSettings, seed: int) -> Tensor:
    height, width = clip.frames.shape[-2:]
    if not settings.labels:
        return segments(clip, 8, seed)
    return torch.stack([read_labels(settings.labels, file, height, width) for file in clip.files])


def _drawn(labels: Tensor, settings: RegionSettings, draw: random.Random) -> dict[str, float]:
    return {str(label): round(draw.uniform(*settings.range), 3) for label in sorted(labels.unique().tolist())}


def _strength_map(labels: Tensor, strengths: dict[str, float]) -> Float[Tensor, "n h w"]:
    result = torch.zeros(labels.shape)
    for label, strength in strengths.items():
        if not label.isdigit():
            raise InputError(f"strengths names the label {label!r}; labels are the numbers in the map")
        result[labels == int(label)] = strength
    return result


def _patches(shape: tuple[int, int] | torch.Size, seed: int) -> Float[Tensor, "h w"]:
    """Smooth noise, evenly spread over (0, 1): a region of strength s is covered over about s of its area."""
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(1, 1, 9, 13, generator=generator)
    noise = F.interpolate(noise, tuple(shape), mode="bicubic", align_corners=False)[0, 0]
    ranks = noise.flatten().argsort().argsort().view_as(noise)
    return (ranks + 0.5) / noise.numel()


def _soft(mask: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Edges softened inward over three pixels."""
    return feather(mask, 2)
