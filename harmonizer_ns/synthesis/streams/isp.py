# SPDX-License-Identifier: Apache-2.0
"""ISP modification (DiffusionHarmonizer): a foreground developed otherwise than its background.

``I = M I_isp + (1 - M) I``, with ``I_isp`` made in linear light: exposure, white balance, vignetting, tone curve.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.synthesis.streams.base import Clip, Made, damaged_clip
from harmonizer_ns.synthesis.streams.masks import MaskConfig, feather, foreground
from harmonizer_ns.synthesis.streams.shading import LUMINANCE, luminance, to_linear, to_srgb


@dataclass(frozen=True)
class Isp:
    """An image signal processor's settings for one clip; the defaults change nothing."""

    exposure: float = 0.0
    """EV: linear light is multiplied by ``2 ** exposure``."""
    red: float = 0.0
    """log2 of the red gain over green; gains keep a grey's luminance."""
    blue: float = 0.0
    """log2 of the blue gain over green."""
    vignetting: float = 0.0
    """Share of the light that is lost in the corners."""
    gamma: float = 1.0
    """Exponent in linear light."""
    toe: float = 0.0
    """Darkening of the shadows: ``y^2 (1 + toe) / (y + toe)``, which keeps 0 and 1."""
    shoulder: float = 0.0
    """Compression above 0.5: ``0.5 + t / (1 + shoulder t / 0.5)`` with ``t = y - 0.5``, of slope 1 at 0.5."""


@dataclass(frozen=True)
class IspSettings:
    """Each clip's one development is drawn evenly from these ranges."""

    exposure: tuple[float, float] = (-1.2, 1.0)
    white_balance: tuple[float, float] = (-0.35, 0.35)
    vignetting: tuple[float, float] = (0.0, 0.3)
    gamma: tuple[float, float] = (0.8, 1.25)
    toe: tuple[float, float] = (0.0, 0.08)
    shoulder: tuple[float, float] = (0.0, 0.8)
    feather: int = 2
    """Pixels over which the mask's edge softens, inward."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Where the foreground comes from."""

    def __post_init__(self) -> None:
        check_limits(self, exposure=(-10, 100), white_balance=(-4, 100), vignetting=(0, 1), gamma=(0.1, 100))
        check_limits(self, toe=(0, 100), shoulder=(0, 100), feather=(0, 99))


def draw_isp(settings: IspSettings, seed: int) -> Isp:
    """Draw the development of a clip."""
    draw = random.Random(seed)
    s = settings
    ranges = (s.exposure, s.white_balance, s.white_balance, s.vignetting, s.gamma, s.toe, s.shoulder)
    return Isp(*(round(draw.uniform(*interval), 4) for interval in ranges))


def make_isp(clip: Clip, settings: IspSettings, seed: int) -> list[Made]:
    """Develop the foreground of each frame alike.

    Raises:
        InputError: when a mask cannot be read, or nothing is left of it inside its feathered edge.
    """
    isp = draw_isp(settings, seed)
    masks = feather(foreground(clip, settings.masks, seed), settings.feather)
    if not masks.any():
        raise InputError(
            f"the mask of {clip.files[0]} is thinner than its feathered edge of {settings.feather} pixels: "
            "set a smaller feather, or give larger masks"
        )
    return damaged_clip(clip, apply_isp(clip.frames, masks, isp), masks, asdict(isp))


def apply_isp(image: Float[Tensor, "n 3 h w"], mask: Float[Tensor, "n 1 h w"], isp: Isp) -> Float[Tensor, "n 3 h w"]:
    """Blend ``M I_isp + (1 - M) I``; where the mask is 0, and under an `Isp` that changes nothing, bits stay."""
    return image if isp == Isp() else torch.lerp(image, develop(image, isp), mask)


def develop(image: Float[Tensor, "n 3 h w"], isp: Isp) -> Float[Tensor, "n 3 h w"]:
    """Develop the image as another camera would have."""
    light = to_linear(image) * 2**isp.exposure * _gains(isp) * _falloff(image, isp.vignetting)
    return to_srgb(_tone(light, isp))


def _gains(isp: Isp) -> Float[Tensor, "3 1 1"]:
    gains = torch.tensor([2**isp.red, 1.0, 2**isp.blue])
    return (gains / luminance(gains) * sum(LUMINANCE))[:, None, None]


def _falloff(image: Tensor, vignetting: float) -> Float[Tensor, "h w"]:
    ys, xs = (torch.linspace(-1, 1, side) for side in image.shape[-2:])
    return 1 - vignetting * ((xs[None] ** 2 + ys[:, None] ** 2) / 2) ** 2


def _tone(light: Tensor, isp: Isp) -> Tensor:
    y = light.clamp(min=0) ** isp.gamma
    y = y * y * (1 + isp.toe) / (y + isp.toe).clamp(min=1e-12)
    above = (y - 0.5).clamp(min=0)
    return torch.where(y > 0.5, 0.5 + above / (1 + isp.shoulder * above / 0.5), y)
