# SPDX-License-Identifier: Apache-2.0
"""Held-out photos are measured one by one: figures of all of them are kept, and pictures of the worst and the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, UInt8
from torch import Tensor

from harmonizer_ns.images import shrunk, to_uint8

METRICS: dict[str, tuple[str, Literal["higher", "lower"]]] = {
    "psnr": ("PSNR", "higher"),
    "ssim": ("SSIM", "higher"),
    "lpips": ("LPIPS", "lower"),
}
"""What trainers measure: how it is called, and which values are better."""
SUFFIXES = {"": "rendered", "_enhanced": "enhanced"}
"""How the names of metrics end, and which image they are of."""
TRUTH = "truth"
_WORST, _BEST = 24, 8
"""Photos of which pictures are kept."""
_SIDE = 1024
"""Longer side, in pixels, to which these are shrunk."""

Scores = dict[str, dict[str, float]]
"""Image -> metric -> value."""


def by_image(metrics: Mapping[str, float]) -> Scores:
    """Sort metrics such as ``psnr`` and ``psnr_enhanced`` by the image that they are of; others are left out."""
    found = {
        image: {name: metrics[name + suffix] for name in METRICS if math.isfinite(metrics.get(name + suffix, math.nan))}
        for suffix, image in SUFFIXES.items()
    }
    return {image: scores for image, scores in found.items() if scores}


@dataclass
class HeldOutPhoto:
    """One photo: its scores, and the images that were measured beside it."""

    scores: Scores
    pictures: dict[str, UInt8[Tensor, "3 h w"]]


@dataclass
class HeldOutPhotos:
    """All held-out photos by name, as they were measured together."""

    photos: dict[str, HeldOutPhoto] = field(default_factory=dict)

    def add(
        self, name: str, metrics: Mapping[str, float], truth: Tensor, images: Mapping[str, Float[Tensor, "3 h w"]]
    ) -> None:
        """Take what was measured on a photo.

        Args:
            name: of the photo.
            metrics: by their names (`by_image`).
            truth: the photo, ``3 h w``.
            images: by the end of their metrics' names.
        """
        pictures = {**{SUFFIXES[suffix]: image for suffix, image in images.items()}, TRUTH: truth}
        small = {image: to_uint8(shrunk(picture.detach(), _SIDE)).cpu() for image, picture in pictures.items()}
        self.photos[name] = HeldOutPhoto(by_image(metrics), small)
        shown = sorted((photo for photo in self.photos.values() if photo.pictures), key=_quality)
        if len(shown) > _WORST + _BEST:
            shown[_WORST].pictures = {}


def _quality(photo: HeldOutPhoto) -> float:
    return photo.scores.get(SUFFIXES[""], {}).get("psnr", math.inf)
