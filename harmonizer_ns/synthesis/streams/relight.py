# SPDX-License-Identifier: Apache-2.0
"""Relighting (DiffusionHarmonizer) puts a foreground under another light than its background.

``I' = M I E_new(n) / E_old(n) + (1 - M) I`` in linear light: a ratio image keeps all texture and changes the shading
alone. Normals ``n`` come from the depth of a splat fitted to the photos, the old light is estimated from the photos,
the new one is drawn, and stays where it is in the world while the camera moves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import check_limits
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.fits import Views, show_photo
from harmonizer_ns.synthesis.streams.masks import MaskConfig, feather
from harmonizer_ns.synthesis.streams.relight_diffusion import DiffusionSettings, diffusion_gain
from harmonizer_ns.synthesis.streams.runs import Run, RunSettings, fit_run
from harmonizer_ns.synthesis.streams.shading import (
    ambient,
    depth_normals,
    directional,
    estimate_light,
    gain,
    irradiance,
    luminance,
    smooth_normals,
    to_linear,
    to_srgb,
)
from harmonizer_ns.types import Cameras, Frames


@dataclass(frozen=True)
class RelightSettings:
    """Each clip's light is drawn evenly from these ranges."""

    run: RunSettings = field(default_factory=RunSettings)
    """Clips and the fit behind them."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Where the foreground comes from; auto: what stands out in depth and colour."""
    strength: tuple[float, float] = (0.8, 1.0)
    """Share of the new light; the rest stays the old one, and 0 changes nothing."""
    ambient: tuple[float, float] = (0.05, 0.3)
    """Share of light from everywhere; the rest comes from one side."""
    exposure: tuple[float, float] = (-1.0, 1.0)
    """EV of the foreground's mean light over the old one."""
    warmth: tuple[float, float] = (-0.5, 0.5)
    """log2 of red over blue in the light from one side; the ambient light gets half of the opposite."""
    height: tuple[float, float] = (0.0, 70.0)
    """Degrees of that side above the horizon."""
    side: tuple[float, float] = (30.0, 150.0)
    """Degrees of that side around the vertical, to the left or right of the clip's first camera: 180 faces it."""
    bound: float = 4.0
    """Largest change of any pixel's light, up or down."""
    feather: int = 2
    """Pixels over which the mask's edge softens, inward."""
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    """A model that relights instead; of the settings above run, masks, bound and feather still count."""

    def __post_init__(self) -> None:
        check_limits(self, strength=(0, 1), ambient=(0, 1), exposure=(-4, 4), warmth=(-4, 4))
        check_limits(self, height=(-90, 90), side=(0, 180), bound=(1, math.inf), feather=(0, 99))


@dataclass(frozen=True)
class Lamp:
    """A lamp is a light as it is drawn: from one side, and from all around."""

    strength: float
    ambient: float
    exposure: float
    warmth: float
    height: float
    side: float
    """Degrees around the vertical from the clip's first camera: 0 behind it, 90 to its right."""


def make_relight(capture: Capture, settings: RelightSettings, seed: int) -> Iterator[Made]:
    """Relight an object in each clip.

    Raises:
        InputError: when the capture is too small, or no foreground is found in it.
    """
    run = fit_run(capture, settings.run, seed)
    found = run.clips_with_objects(lambda views, own: _foreground(run, views, settings, own))
    for number, views, own, masks in found:
        yield from _make_clip(run, views, masks, number, settings, own)


def draw_lamp(settings: RelightSettings, seed: int) -> Lamp:
    """Draw the light of a clip."""
    draw = random.Random(seed)
    s = settings
    ranges = (s.strength, s.ambient, s.exposure, s.warmth, s.height)
    side = draw.choice((-1, 1)) * draw.uniform(*s.side)
    return Lamp(*(round(value, 4) for value in (*(draw.uniform(*interval) for interval in ranges), side)))


def lamp_light(lamp: Lamp, cameras: Cameras) -> Float[Tensor, "9 3"]:
    """Turn a lamp into light of unit irradiance where it falls straight, without its exposure and strength."""
    up = F.normalize(-cameras.camera_to_world[:, :3, 1].mean(0), dim=0)  # photos are mostly held level
    height, side = math.radians(lamp.height), math.radians(lamp.side)
    back = -cameras.camera_to_world[0, :3, 2]
    back = F.normalize(back - (back @ up) * up, dim=0)
    right = torch.linalg.cross(up, back)
    level = math.cos(side) * back + math.sin(side) * right
    direction = math.cos(height) * level + math.sin(height) * up
    return (1 - lamp.ambient) * directional(direction, _tint(lamp.warmth)) + lamp.ambient * ambient(
        _tint(-lamp.warmth / 2)
    )


def _tint(warmth: float) -> Float[Tensor, " 3"]:
    color = torch.tensor([2 ** (warmth / 2), 1.0, 2 ** (-warmth / 2)])
    return color / luminance(color)


def _foreground(run: Run, views: Views, settings: RelightSettings, seed: int) -> Float[Tensor, "n 1 h w"] | None:
    """Find soft masks of the first object whose masks have an inside in every frame."""
    found = (feather(masks, settings.feather) for masks in run.object_masks(views, settings.masks, seed))
    return next((soft for soft in found if soft.flatten(1).amax(1).min() > 0), None)


def _make_clip(
    run: Run, views: Views, masks: Float[Tensor, "n 1 h w"], number: int, settings: RelightSettings, seed: int
) -> Iterator[Made]:
    frames, renders = run.clip(views).frames, run.renders(views)
    if settings.diffusion.model:
        gains, parameters = diffusion_gain(frames, masks, settings.diffusion, settings.bound, seed)
    else:
        lamp = draw_lamp(settings, seed)
        gains, light = lamp_gain(frames, renders, masks, lamp, settings.bound)
        parameters = {**vars(lamp), "light": light.tolist()}
    images = brighten(frames, gains, masks)
    for view, image, mask, render in zip(views, images, masks, renders, strict=True):
        yield show_photo(run, view, replace(render, rgb=image[None]), parameters, number, mask)


def lamp_gain(
    frames: Float[Tensor, "n 3 h w"], renders: Frames, masks: Float[Tensor, "n 1 h w"], lamp: Lamp, bound: float
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "9 3"]]:
    """Compute the ratio images of a clip under a lamp, and the light in spherical harmonics.

    Args:
        frames: the clip.
        renders: its depth and cameras.
        masks: where the mean light is ``2 ** lamp.exposure`` of what it was.
        lamp: shares the light with the old one, which is estimated from all of the clip.
        bound: see `gain`.
    """
    normals = depth_normals(renders.depth, renders.cameras)
    known = renders.depth[:, 0] > 0
    old = estimate_light(to_linear(frames).permute(0, 2, 3, 1)[known], normals[known])
    normals = smooth_normals(normals, masks, 2 * (frames.shape[-1] // 24) + 1)
    new, shown = lamp_light(lamp, renders.cameras), normals[masks[:, 0] > 0]
    level = luminance(irradiance(old, shown)).mean() / luminance(irradiance(new, shown)).mean()
    new = torch.lerp(old, new * level * 2**lamp.exposure, lamp.strength)
    return gain(new, old, normals, bound).permute(0, 3, 1, 2), new


def brighten(
    frames: Float[Tensor, "n 3 h w"], gains: Float[Tensor, "n 3 h w"], masks: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, "n 3 h w"]:
    """Multiply linear light inside the masks; elsewhere frames stay as they are, bit by bit."""
    return torch.lerp(frames, to_srgb(to_linear(frames) * gains), masks)
