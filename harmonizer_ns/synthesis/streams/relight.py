# SPDX-License-Identifier: Apache-2.0
"""Relighting (DiffusionHarmonizer): a foreground under another light than its background.

``I' = M I E_new(n) / E_old(n) + (1 - M) I`` in linear light: a ratio image keeps all texture and changes the shading
alone. Normals ``n`` come from the depth of a splat fitted to the photos, the old light is estimated from the photos,
the new one is drawn, and stays where it is in the world while the camera moves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.captures.pinhole import Capture
from harmonizer_ns.splats.held_out import SparseFit
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.curation_fit import references_of, remembering
from harmonizer_ns.synthesis.streams.masks import MaskConfig, feather
from harmonizer_ns.synthesis.streams.relight_diffusion import DiffusionSettings, diffusion_gain
from harmonizer_ns.synthesis.streams.runs import (
    RunSettings,
    cameras_of,
    clip_of,
    clips_with_objects,
    draw_run,
    fit_run,
    object_masks,
)
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
    """Ranges from which each clip's light is drawn, evenly."""

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
        limits = {"strength": (0, 1), "ambient": (0, 1), "exposure": (-4, 4), "warmth": (-4, 4), "height": (-90, 90),
                  "side": (0, 180)}  # fmt: skip
        for name, (low, high) in limits.items():
            first, last = getattr(self, name)
            if not low <= first <= last <= high:
                raise ValueError(f"{name} should be a range within {low} to {high}, got {(first, last)}")
        if self.bound < 1 or not 0 <= self.feather < 100:
            raise ValueError(f"need bound >= 1 and 0 <= feather < 100, got {self.bound}, {self.feather}")


@dataclass(frozen=True)
class Lamp:
    """A light as it is drawn: one side, and all around."""

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
    run = draw_run(capture, settings.run, seed)
    fit = remembering(fit_run(run, settings.run, seed))
    found = clips_with_objects(run, settings.run, seed, lambda indices, own: _foreground(fit, indices, settings, own))
    for number, indices, own, masks in found:
        yield from _make_clip(fit, indices, masks, number, settings, own)


def draw_lamp(settings: RelightSettings, seed: int) -> Lamp:
    """The light of a clip."""
    draw = random.Random(seed)
    s = settings
    ranges = (s.strength, s.ambient, s.exposure, s.warmth, s.height)
    side = draw.choice((-1, 1)) * draw.uniform(*s.side)
    return Lamp(*(round(value, 4) for value in (*(draw.uniform(*interval) for interval in ranges), side)))


def lamp_light(lamp: Lamp, cameras: Cameras) -> Float[Tensor, "9 3"]:
    """Of unit irradiance where it falls straight; its exposure and strength are not in it."""
    up, height, side = _up(cameras), math.radians(lamp.height), math.radians(lamp.side)
    back = -cameras.camera_to_world[0, :3, 2]
    back = F.normalize(back - (back @ up) * up, dim=0)
    right = torch.linalg.cross(up, back)
    level = math.cos(side) * back + math.sin(side) * right
    direction = math.cos(height) * level + math.sin(height) * up
    return (1 - lamp.ambient) * directional(direction, _tint(lamp.warmth)) + lamp.ambient * ambient(
        _tint(-lamp.warmth / 2)
    )


def _up(cameras: Cameras) -> Float[Tensor, " 3"]:
    """The mean of the cameras' upward axes: photos are mostly held level."""
    return F.normalize(-cameras.camera_to_world[:, :3, 1].mean(0), dim=0)


def _tint(warmth: float) -> Float[Tensor, " 3"]:
    color = torch.tensor([2 ** (warmth / 2), 1.0, 2 ** (-warmth / 2)])
    return color / luminance(color)


def _foreground(
    fit: SparseFit, indices: range, settings: RelightSettings, seed: int
) -> Float[Tensor, "n 1 h w"] | None:
    """Soft masks of the first object whose masks have an inside in every frame."""
    renders = fit.renderer.render(cameras_of(fit.capture, indices))
    for masks in object_masks(fit, indices, renders, settings.masks, seed):
        soft = feather(masks, settings.feather)
        if soft.flatten(1).amax(1).min() > 0:
            return soft
    return None


def _make_clip(
    fit: SparseFit,
    indices: range,
    masks: Float[Tensor, "n 1 h w"],
    number: int,
    settings: RelightSettings,
    seed: int,
) -> Iterator[Made]:
    frames = clip_of(fit.capture, indices).frames
    renders = fit.renderer.render(cameras_of(fit.capture, indices))
    if settings.diffusion.model:
        gains, parameters = diffusion_gain(frames, masks, settings.diffusion, settings.bound, seed)
    else:
        lamp = draw_lamp(settings, seed)
        gains, light = lamp_gain(frames, renders, masks, lamp, settings.bound)
        parameters = {**vars(lamp), "light": light.tolist()}
    images = brighten(frames, gains, masks)
    for i, image, mask, render in zip(indices, images, masks, renders, strict=True):
        photo, file = fit.capture.photos[i].rgb[0], fit.capture.filenames[i]
        geometry = Frames(image[None], render.alpha, render.depth, render.cameras)
        yield Made(image, photo, parameters, mask, geometry, references_of(fit, i), number, file)


def lamp_gain(
    frames: Float[Tensor, "n 3 h w"], renders: Frames, masks: Float[Tensor, "n 1 h w"], lamp: Lamp, bound: float
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "9 3"]]:
    """Ratio images of a clip under a lamp, and the light in spherical harmonics.

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
