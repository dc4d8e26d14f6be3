# SPDX-License-Identifier: Apache-2.0
"""The gate says how far each pixel of a repair may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.images import local_mean
from harmonizer_ns.metrics import gradient_energy
from harmonizer_ns.types import Frames
from harmonizer_ns.warp import Warped, warp_all


@dataclass(frozen=True)
class GateConfig:
    """What makes a repaired pixel plausible. The defaults were chosen on unseen photos of sparse captures."""

    alpha_low: float = 0.2
    """Opacity at and below which nothing was rendered: weight 0."""
    alpha_high: float = 0.8
    """Opacity from which a pixel counts as covered."""
    photo_noise: float = 0.01
    """Colour distance (mean absolute difference, in [0, 1]) to the photos that is ordinary: no penalty up to here."""
    photo_tolerance: float = 0.05
    """Colour distance beyond the ordinary at which the weight has fallen to 1/e."""
    window: int = 5
    """Side in pixels (odd) of the neighbourhood over which colours are compared: single-pixel noise averages out."""
    shift: int = 1
    """Misregistration in pixels that is forgiven: the best agreement among shifts up to this counts."""
    unseen_weight: float | None = None
    """Prior weight of a pixel that no photo sees: plausible, but nobody can tell. None: 0.2 with fading trust, 1 with
    lasting: what is wrong there is another thing in each view."""
    depth_tolerance: float = 0.1
    """Relative depth disagreement at which a photo's visibility of a pixel has fallen to 1/e."""
    contradicted_weight: float | None = None
    """Weight of a pixel that photos see and none confirms. None: 0 with fading trust, 0.5 with lasting: photos arrive
    displaced where the depth is wrong, and that is where repairs are needed."""

    def __post_init__(self) -> None:
        check_limits(self, alpha_low=(0, 1), alpha_high=(0, 1), unseen_weight=(0, 1), contradicted_weight=(0, 1))
        check_limits(self, window=(1, math.inf), shift=(0, math.inf), photo_tolerance=(1e-6, math.inf))
        if self.alpha_low >= self.alpha_high or self.window % 2 == 0:
            raise InputError(
                f"need alpha_low < alpha_high and an odd window, got {self.alpha_low}, {self.alpha_high}, {self.window}"
            )

    def for_trust(self, fades: bool) -> GateConfig:
        """Fill in what depends on whether trust fades."""
        unseen, contradicted = (0.2, 0.0) if fades else (1.0, 0.5)
        return replace(
            self,
            unseen_weight=unseen if self.unseen_weight is None else self.unseen_weight,
            contradicted_weight=contradicted if self.contradicted_weight is None else self.contradicted_weight,
        )


class Gate:
    """Weighs repairs: ``weight = coverage(alpha) x support(photos) x confidence(enhancer)``, per pixel.

    Args:
        config: what makes a pixel plausible.
        fades: whether trust fades, which decides what the configuration leaves open.
    """

    def __init__(self, config: GateConfig, fades: bool = True) -> None:
        self.config, self._fades = config.for_trust(fades), fades
        assert self.config.unseen_weight is not None
        assert self.config.contradicted_weight is not None
        self._unseen, self._contradicted = self.config.unseen_weight, self.config.contradicted_weight

    def weight(self, renders: Frames, repaired: Repaired, context: Context) -> Float[Tensor, "n 1 h w"]:
        """Trust in each repaired pixel, in [0, 1].

        Args:
            renders: what was repaired; its alpha and depth are used.
            repaired: the enhancer's output for it.
            context: the references, as given to the enhancer.
        """
        photos = context.photos(renders)
        trust = [self._trust(renders[i], repaired.rgb[i : i + 1], photos[i]) for i in range(len(renders))]
        return self.coverage(renders.alpha) * torch.cat(trust) * repaired.confidence

    def _trust(self, render: Frames, rgb: Float[Tensor, "1 3 h w"], photos: Frames | None) -> Float[Tensor, "1 1 h w"]:
        """What photos say of one view's repair: `support`, and `kept_detail` where trust lasts."""
        if photos is None or not len(photos):
            return torch.full_like(render.alpha, self._unseen)
        warped = warp_all(photos, render, self.config.depth_tolerance)
        support = self.support(rgb, warped)
        return support if self._fades else support * self.kept_detail(render.rgb, rgb, warped)

    def coverage(self, alpha: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """0 where nothing was rendered, 1 where the render is opaque, linear between."""
        low, high = self.config.alpha_low, self.config.alpha_high
        return ((alpha - low) / (high - low)).clamp(0.0, 1.0)

    def support(self, rgb: Float[Tensor, "1 3 h w"], photos: Warped) -> Float[Tensor, "1 1 h w"]:
        """How far the real photos, warped into a view, bear its repair out.

        With visibility ``v_k`` and agreement ``a_k`` of photo ``k``, ``s = max_k v_k`` and ``c = max_k v_k a_k``:
        ``c + (s - c) contradicted + (1 - s) unseen``. One photo that agrees is enough, since the others may be misled
        by a highlight or by wrong depth.
        """
        seen, confirmed = photos.valid.amax(dim=0, keepdim=True), self._confirmed(rgb, photos)
        return confirmed + (seen - confirmed) * self._contradicted + (1 - seen) * self._unseen

    def kept_detail(
        self, render: Float[Tensor, "1 3 h w"], rgb: Float[Tensor, "1 3 h w"], photos: Warped
    ) -> Float[Tensor, ""]:
        """How much of the detail that photos confirm in a render its repair leaves, in [0, 1].

        ``min(1, E(repair) / E(render))`` with the gradient energy ``E`` of confirmed pixels; 1 where nothing is
        confirmed. Who blurs what was right blurs all views alike, and a scene would learn it; sharp repairs whose
        details err differ from view to view, and average out.
        """
        confirmed = self._confirmed(render, photos)
        kept, before = gradient_energy(rgb, confirmed), gradient_energy(render, confirmed)
        return torch.where(before > 0, kept / before, torch.ones_like(before)).clamp(max=1)

    def _confirmed(self, rgb: Float[Tensor, "1 3 h w"], photos: Warped) -> Float[Tensor, "1 1 h w"]:
        """``max_k v_k a_k``: how far the photo that agrees best confirms each pixel."""
        agreement = self.agreement(rgb.expand_as(photos.rgb), photos.rgb, photos.valid)
        return (photos.valid * agreement).amax(dim=0, keepdim=True)

    def agreement(
        self, rgb: Float[Tensor, "k 3 h w"], photo: Float[Tensor, "k 3 h w"], valid: Float[Tensor, "k 1 h w"]
    ) -> Float[Tensor, "k 1 h w"]:
        """``exp(-((d - noise)+ / tolerance)^2)`` of the local mean colour distance ``d`` at the best small shift."""
        mean_valid = local_mean(valid, self.config.window).clamp(min=1e-6)
        distances = [
            local_mean((rgb - shifted).abs().mean(dim=1, keepdim=True) * valid, self.config.window) / mean_valid
            for shifted in _shifts(photo, self.config.shift)
        ]
        excess = (torch.stack(distances).amin(dim=0) - self.config.photo_noise).clamp(min=0.0)
        return torch.exp(-(excess / self.config.photo_tolerance).square())


def _shifts(image: Float[Tensor, "k c h w"], reach: int) -> list[Float[Tensor, "k c h w"]]:
    """The image at every whole-pixel shift up to ``reach`` both ways; edges are repeated."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (reach, reach, reach, reach), mode="replicate")
    offsets = range(2 * reach + 1)
    return [padded[..., y : y + height, x : x + width] for y in offsets for x in offsets]
