# SPDX-License-Identifier: Apache-2.0
"""Held-out photos are measured one by one: figures of all of them are kept, and pictures of the worst and the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.images import shrunk, to_uint8
from harmonizer_ns.types import Frames
from harmonizer_ns.views import ENHANCED, PLAIN, JudgedView, view_of

METRICS: dict[str, tuple[str, Literal["higher", "lower"]]] = {
    "psnr": ("PSNR", "higher"),
    "ssim": ("SSIM", "higher"),
    "lpips": ("LPIPS", "lower"),
}
"""What trainers measure: how it is called, and which values are better."""
SUFFIXES = {"": PLAIN, "_enhanced": ENHANCED}
"""How the names of metrics end, and which image they are of."""
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
    """Holds a held-out photo and its images: scores and pictures by image, from the first to the last."""

    name: str
    scores: Scores
    pictures: dict[str, UInt8[Tensor, "3 h w"]]

    @property
    def quality(self) -> list[float]:
        """PSNR of the images."""
        return [scores["psnr"] for scores in self.scores.values() if "psnr" in scores]

    @property
    def change(self) -> float:
        """PSNR gained from the first image to the last; NaN where there are no two."""
        return self.quality[-1] - self.quality[0] if len(self.quality) > 1 else math.nan


@dataclass
class HeldOutPhotos:
    """All held-out photos by name, as they were measured together."""

    photos: dict[str, HeldOutPhoto] = field(default_factory=dict)

    def add(self, view: JudgedView, metrics: Mapping[str, float]) -> None:
        """Take what was measured on a photo; metrics come by their names (`by_image`)."""
        small = {role: to_uint8(shrunk(image.detach(), _SIDE)).cpu() for role, image in view.all_pictures.items()}
        self.photos[view.shows] = HeldOutPhoto(view.shows, by_image(metrics), small)
        pictured = (photo for photo in self.photos.values() if photo.pictures)
        shown = sorted(pictured, key=lambda photo: next(iter(photo.quality), math.inf))
        if len(shown) > _WORST + _BEST:
            shown[_WORST].pictures = {}


def held_out_view(capture: Capture, index: int, render: Frames, repairs: Repairs) -> JudgedView:
    """Put a held-out photo beside its render, enhanced by itself unless nothing enhances or that fails."""
    enhanced = None if repairs.settings.enhancer == "none" else repairs.enhance(render)
    images = {PLAIN: render.rgb[0], **({} if enhanced is None else {ENHANCED: enhanced[0]})}
    return view_of(capture, index, images)
