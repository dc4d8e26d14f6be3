# SPDX-License-Identifier: Apache-2.0
"""Pseudo-views from what several real photos agree on, and from an enhancer where they cannot tell.

A render is wrong exactly where its own depth is (floaters, collapsed background), so photos warped through that depth
miss what has to be repaired. The model's depth at the photos themselves is better: it was trained there. Splatting it
forward into the view shows where the surface should be; photos are then pulled in through that depth.

This suits training targets, whose errors average out over views. As a picture to look at, an enhancer's own output is
better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.images import local_mean
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import backproject, backward_warp, project

DEPTH_TOLERANCE = 0.03
"""Relative difference up to which two depths are the same surface."""
VISIBILITY_TOLERANCE = 0.05
"""As `backward_warp`'s tolerance."""
COLOR_TOLERANCE = 0.05
"""Mean absolute colour deviation among photos, in [0, 1], at which trust has fallen to 1/e."""
WINDOW = 3
"""Side in pixels of the neighbourhood over which colours are compared."""
NOTICEABLE = 0.03
"""Local colour change, in [0, 1], from which an enhancer's repair counts fully as one."""


@dataclass(frozen=True)
class ConsensusEnhancer:
    """For each pixel the more trusted of two: the photos' consensus, or the repair of another enhancer.

    Args:
        enhancer: repairs what the photos cannot tell. Where it leaves the render as it is there is nothing to learn, so
            its confidence counts in proportion to the change it made.
    """

    enhancer: Enhancer

    @property
    def max_references(self) -> int:
        """Any number of photos helps; the inner enhancer takes as many as it can use."""
        return 16

    @torch.no_grad()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames; see the class."""
        repaired = self.enhancer.enhance(frames, context)
        trust = repaired.confidence * _novelty(frames.rgb, repaired.rgb)
        references = context.references or (None,) * len(frames)
        agreed = [photo_consensus(frames[i], photos) for i, photos in enumerate(references)]
        rgb, confidence = torch.cat([a.rgb for a in agreed]), torch.cat([a.confidence for a in agreed])
        return Repaired(torch.where(confidence > trust, rgb, repaired.rgb), torch.maximum(confidence, trust))


def _novelty(render: Float[Tensor, "n 3 h w"], repaired: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    change = (repaired - render).abs().mean(dim=1, keepdim=True)
    return (local_mean(change, WINDOW) / NOTICEABLE).clamp(max=1.0)


def photo_consensus(render: Frames, photos: Frames | None) -> Repaired:
    """What the photos agree on in one view.

    With validities ``v_k`` and warped colours ``c_k``: the colour is ``m = sum v_k c_k / n`` with ``n = sum v_k``, and
    the confidence ``exp(-(d / tolerance)^2) clamp(n - 1/2, 0, 1)`` with ``d`` the local mean of
    ``sum v_k |c_k - m| / n``: one photo alone counts half, two that agree count fully.

    Args:
        render: a batch of one.
        photos: real photos with the model's depth at their cameras, or None.

    Returns:
        The colour (the render's where no photo sees a pixel) and its confidence.
    """
    if photos is None or not len(photos):
        return Repaired(render.rgb, torch.zeros_like(render.alpha))
    depth = consensus_depth(render, photos).expand(len(photos), -1, -1, -1)
    warped = backward_warp(photos, depth, render.cameras[[0] * len(photos)], tolerance=VISIBILITY_TOLERANCE)
    count = warped.valid.sum(dim=0, keepdim=True)
    share = warped.valid / count.clamp(min=1e-6)
    mean = (share * warped.rgb).sum(dim=0, keepdim=True)
    deviation = (share * (warped.rgb - mean).abs().mean(dim=1, keepdim=True)).sum(dim=0, keepdim=True)
    agreement = torch.exp(-(local_mean(deviation, WINDOW) / COLOR_TOLERANCE).square())
    return Repaired(torch.where(count > 0, mean, render.rgb), agreement * (count - 0.5).clamp(0.0, 1.0))


def consensus_depth(render: Frames, photos: Frames) -> Float[Tensor, "1 1 h w"]:
    """The render's depth, replaced where it is alone and at least two photos agree on another.

    Args:
        render: a batch of one.
        photos: at least one, with the model's depth at their cameras.
    """
    splatted = splat_depth(photos, render.cameras)
    supported = _same_surface(splatted, render.depth).any(dim=0, keepdim=True)
    nearest_first = splatted.sort(dim=0).values
    front, behind = nearest_first[:-1], nearest_first[1:]
    agree = _same_surface(behind, front)
    if not len(agree):
        return render.depth
    first = agree.int().argmax(dim=0, keepdim=True)
    agreed = (front.gather(0, first) + behind.gather(0, first)) / 2
    return torch.where(agree.any(dim=0, keepdim=True) & ~supported, agreed, render.depth)


def _same_surface(depth: Float[Tensor, "k 1 h w"], other: Float[Tensor, "k 1 h w"]) -> Bool[Tensor, "k 1 h w"]:
    """Infinity and 0 are no surface."""
    return torch.isfinite(depth) & ((depth - other).abs() < DEPTH_TOLERANCE * other)


def splat_depth(photos: Frames, view: Cameras) -> Float[Tensor, "k 1 h w"]:
    """Depth of each photo's pixels seen from the view: nearest wins, one-pixel cracks are closed, infinity where empty.

    Args:
        photos: with depth; 0 is unknown.
        view: a batch of one.
    """
    height, width = view.height, view.width
    pixels, z = project(backproject(photos.depth, photos.cameras), view[[0] * len(photos)])
    column, row = pixels.floor().long().unbind(dim=-1)
    inside = (z > 0) & (photos.depth[:, 0] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    photo = torch.arange(len(photos), device=z.device)[:, None, None].expand_as(z)
    index = ((photo * height + row) * width + column)[inside]
    flat = torch.full((len(photos) * height * width,), torch.inf, device=z.device)
    depth = flat.scatter_reduce(0, index, z[inside], "amin").view(len(photos), 1, height, width)
    nearest = -F.max_pool2d(-depth, 3, stride=1, padding=1)
    return torch.where(torch.isinf(depth), nearest, depth)
