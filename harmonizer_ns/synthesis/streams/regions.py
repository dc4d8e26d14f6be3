# SPDX-License-Identifier: Apache-2.0
"""Regions are degraded: splat-like blur in patches, stronger in some regions than in others."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.images import local_mean, resize
from harmonizer_ns.raster import rasterization
from harmonizer_ns.synthesis.streams.base import Clip, Made, damaged_clip
from harmonizer_ns.synthesis.streams.labels import LabelConfig, Labels, find_labels
from harmonizer_ns.synthesis.streams.masks import feather
from harmonizer_ns.synthesis.streams.motion import Motion, small_images

FACE_STRENGTHS: dict[str, float] = {
    **dict.fromkeys(("mouth", "u_lip", "l_lip", "lips"), 0.9),
    **dict.fromkeys(("l_eye", "r_eye", "eye_g", "eyes"), 0.7),
    "hair": 0.6,
    **dict.fromkeys(("l_brow", "r_brow", "brows"), 0.5),
    "nose": 0.4,
    **dict.fromkeys(("l_ear", "r_ear", "ears"), 0.3),
    "skin": 0.3,
    "neck": 0.2,
}
"""Share of a face's region that is degraded: most where one looks. The names are those of CelebAMask-HQ (Lee et al.
2020), which face parsers use, and plain ones; eye_g are glasses. What is not named stays clean."""


@dataclass(frozen=True)
class RegionSettings:
    """These settings say how regions are degraded."""

    labels: LabelConfig = field(default_factory=LabelConfig)
    """Where the regions come from."""
    strengths: dict[str, float] = field(default_factory=dict)
    """Label, by name or number -> share of it that is degraded; labels that are not named stay clean.

    Empty: `FACE_STRENGTHS` where labels have such names; else each is drawn from ``range``."""
    range: tuple[float, float] = (0.0, 0.9)
    """Strengths that are drawn."""
    size: tuple[float, float] = (0.006, 0.014)
    """Size of a splat, as a share of the image's width (standard deviation)."""
    stretch: float = 3.0
    """Largest ratio of a splat's axes."""

    def __post_init__(self) -> None:
        check_limits(self, range=(0, 1), size=(1e-6, 0.2), stretch=(1, 10))
        if not all(0 <= value <= 1 for value in self.strengths.values()):
            raise ValueError(f"strengths should be in [0, 1], got {self.strengths}")


def make_regions(clip: Clip, settings: RegionSettings, seed: int) -> list[Made]:
    """Degrade each frame: strengths and splats are the same over the clip, patches stay at their place in the scene.

    Raises:
        InputError: when labels cannot be read or found, or strengths names labels that there are not.
    """
    draw = random.Random(seed)
    labels = find_labels(clip, settings.labels, seed)
    strengths = _strengths(labels, settings, draw)
    size = round(draw.uniform(*settings.size), 5)
    parameters = {"strengths": strengths, "size": size, "stretch": settings.stretch}
    patches = _patches(clip.frames, seed) < _strength_map(labels, strengths)
    masks = feather(patches[:, None].float(), 2)
    images = []
    for frame, mask in zip(clip.frames, masks, strict=True):
        blurred = splat_blur(frame, size * frame.shape[-1], settings.stretch, seed) if mask.any() else frame
        images.append(torch.lerp(frame, blurred, mask))
    return damaged_clip(clip, torch.stack(images), masks, parameters)


def _strengths(labels: Labels, settings: RegionSettings, draw: random.Random) -> dict[str, float]:
    """Take the settings' strengths, or those of a face, or draw them."""
    if settings.strengths:
        return settings.strengths
    if faces := {name: FACE_STRENGTHS[name] for name in labels.names if name in FACE_STRENGTHS}:
        return faces
    found = sorted(labels.maps.unique().tolist())
    return {str(label): round(draw.uniform(*settings.range), 3) for label in found}


def _strength_map(labels: Labels, strengths: dict[str, float]) -> Float[Tensor, "n h w"]:
    result = torch.zeros(labels.maps.shape)
    for label, strength in strengths.items():
        if label not in labels.names and not label.isdigit():
            known = ", ".join(labels.names) or "numbers only: give their names in labels.json beside the maps"
            raise InputError(f"strengths names the label {label!r}; the label maps have {known}")
        result[labels.maps == labels.names.get(label, int(label) if label.isdigit() else -1)] = strength
    return result


def splat_blur(image: Float[Tensor, "3 h w"], size: float, stretch: float, seed: int) -> Float[Tensor, "3 h w"]:
    """Draw random long Gaussians of the image's colours, ``size`` pixels wide, over its blurred self."""
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    count = max(4, int(1.5 * height * width / size**2))
    places = torch.rand(count, 2, generator=generator)
    grid = (2 * places - 1)[None, None]
    blurred = local_mean(image[None], 2 * round(size) + 1)
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


def _patches(frames: Float[Tensor, "n 3 h w"], seed: int) -> Float[Tensor, "n h w"]:
    """Draw smooth noise, evenly spread over (0, 1): a region of strength s is covered over about s of its area.

    Optical flow takes it from frame to frame; what comes into view gets the noise of its place.
    """
    images = small_images(frames)
    fresh = _noise(images[0].shape[:2], seed)
    fields = [fresh]
    for before, image in itertools.pairwise(images):
        moved = Motion.between(before, image).move(fields[-1])
        fields.append(np.where(moved > 0, moved, fresh))
    small = torch.from_numpy(np.stack(fields))[:, None]
    return resize(small, *frames.shape[-2:])[:, 0].to(frames.device)


def _noise(size: tuple[int, ...], seed: int) -> Float[np.ndarray, "h w"]:
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(1, 1, 9, 13, generator=generator)
    noise = F.interpolate(noise, size, mode="bicubic", align_corners=False)[0, 0]
    ranks = noise.flatten().argsort(stable=True).argsort().view_as(noise)
    return ((ranks + 0.5) / noise.numel()).numpy().astype(np.float32)
