# SPDX-License-Identifier: Apache-2.0
"""Objects of a scene are found from photos with depth: the same thing in every frame of a clip.

Pixels of all frames are grouped at once by where they lie in space, by colour and by normal; since places are those of
the world, a group stays on its thing while the camera moves. Groups that stand out from what is behind them are taken
for objects.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harmonizer_ns.images import local_mean, to_pixels
from harmonizer_ns.synthesis.streams.grabcut import cut_out, doubtful_edge
from harmonizer_ns.synthesis.streams.shading import depth_normals
from harmonizer_ns.types import Frames
from harmonizer_ns.warp import backproject

_GROUPS = (6, 12, 20, 32)
"""Numbers of groups that are tried: things differ in size."""
_BEST = 4
"""Objects that are chosen from, at most."""
_LEAST = 0.1
"""Least score of an object."""
_ROUNDS = 8
_STEP = 0.04
"""Relative step of depth at which something stands out ..."""
_CONTRAST = 0.15
"""... and difference of colour."""
_STEADY = 0.35
"""Least ratio of the smallest to the largest area of an object in the frames of a clip."""


def find_objects(photos: Frames, share: tuple[float, float], seed: int) -> Iterator[Float[Tensor, "n 1 h w"]]:
    """Find masks of objects, 0 or 1; those that stand out most come first, the best few in random order.

    Args:
        photos: neighbouring frames with depth.
        share: least and largest share of the middle frame that an object may cover.
        seed: of the grouping and of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    features, found = _features(photos), []
    for count in _GROUPS:
        labels = _grouped(features, count, generator)
        for label in range(count):
            masks = _cleaned(labels == label)
            if share[0] <= masks[len(photos) // 2].mean() <= share[1] and _is_steady(masks):
                found.append((_stands_out(masks, photos), masks))
    found = sorted((item for item in found if item[0] > _LEAST), key=lambda item: -item[0])[:_BEST]
    best = [masks for score, masks in found if score > 0.7 * found[0][0]]
    for i in torch.randperm(len(best), generator=generator).tolist():
        masks = torch.stack([sharpen(mask, photo) for mask, photo in zip(best[i], photos.rgb, strict=True)])
        if _is_steady(masks):
            yield masks


def _features(photos: Frames) -> Float[Tensor, "n h w 10"]:
    """Describe pixels by place (direction and logarithm of the distance from the middle camera), colour and normal."""
    points = backproject(photos.depth, photos.cameras)
    middle = photos.cameras[len(photos) // 2]
    away = points - middle.centers
    distance = away.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    view = middle.width / middle.intrinsics[0, 0, 0]
    place = torch.cat([away / distance / view, 1.3 * distance.log()], -1)
    colors = 0.7 * photos.rgb.permute(0, 2, 3, 1)
    return torch.cat([place, colors, 0.15 * depth_normals(photos.depth, photos.cameras)], -1)


def _grouped(features: Float[Tensor, "n h w c"], count: int, generator: torch.Generator) -> Int[Tensor, "n h w"]:
    """Group pixels by k-means, from k-means++ (Arthur and Vassilvitskii 2007) on a sixteenth of them."""
    points = features[:, ::4, ::4].flatten(0, 2)
    centers = points[torch.randint(len(points), (1,), generator=generator)]
    for _ in range(count - 1):
        far = torch.cdist(points, centers).amin(1).square() + 1e-12
        centers = torch.cat([centers, points[torch.multinomial(far, 1, generator=generator)]])
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centers).argmin(1)
        hits = torch.bincount(nearest, minlength=count).clamp(min=1)
        centers = torch.zeros_like(centers).index_add_(0, nearest, points) / hits[:, None]
    return torch.cdist(features.flatten(0, 2), centers).argmin(1).view(features.shape[:3])


def _cleaned(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 1 h w"]:
    """Remove specks and pinholes, and all but the largest parts of each frame."""
    radius = max(1, masks.shape[-1] // 160)
    smooth = local_mean(masks[:, None].float(), 2 * radius + 1) > 0.5
    return torch.from_numpy(np.stack([_largest_parts(mask) for mask in smooth[:, 0].numpy()]))[:, None].float()


def _largest_parts(mask: np.ndarray) -> np.ndarray:
    """Keep connected parts of at least a third of the largest one's size, holes filled."""
    import cv2

    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    sizes = statistics[1:count, cv2.CC_STAT_AREA]
    kept = np.isin(parts, 1 + np.nonzero(3 * sizes >= sizes.max(initial=0))[0]).astype(np.uint8)
    outlines, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(kept, outlines, -1, (1.0,), cv2.FILLED)


def _is_steady(masks: Float[Tensor, "n 1 h w"]) -> bool:
    areas = masks.flatten(1).mean(1)
    return bool(areas.min() > _STEADY * areas.max())


def _stands_out(masks: Float[Tensor, "n 1 h w"], photos: Frames) -> float:
    """Score how far masks look like an object, in [0, 1].

    Share of the outlines beyond which all is farther or of another colour, and where the picture ends, nothing is;
    less for what is far (a sky has no depth worth the name) and for ragged outlines.
    """
    ring = (_around(masks) > 0) & (masks == 0)
    inside = _around(masks * torch.cat([photos.rgb, photos.depth], 1)) / _around(masks).clamp(min=1e-6)
    other = (photos.rgb - inside[:, :3]).abs().amax(1, keepdim=True) > _CONTRAST
    farther = photos.depth > (1 + _STEP) * inside[:, 3:]
    cut = sum(masks[..., side, :].sum() + masks[..., side].sum() for side in (0, -1))
    outline = (ring.sum() + 5 * cut).clamp(min=1)
    bounded, raised = (ring & (farther | other)).sum() / outline, (ring & farther).sum() / outline
    nearness = (photos.depth.median() / photos.depth[masks > 0].median().clamp(min=1e-12)).clamp(max=1)
    compactness = (11 * masks.sum(dim=(1, 2, 3)).sqrt() / ring.sum(dim=(1, 2, 3)).clamp(min=1)).mean()  # 1: a disc
    return (bounded.square() * (1 + raised) / 2 * nearness * compactness.clamp(max=1)).item()


def _around(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Average over a few pixels: a mask becomes more than 0 near it."""
    return local_mean(image, 7)


def sharpen(mask: Float[Tensor, "1 h w"], frame: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    """Let a mask's edge follow colours: GrabCut (Rother et al. 2004) in a band around the given edge.

    A mask that GrabCut shrinks or grows by more than a third stays as it was.
    """
    import cv2

    side = 2 * max(2, mask.shape[-1] // 60) + 1
    labels = doubtful_edge(mask[0].numpy() > 0, np.ones((side, side), np.uint8))
    if not ((labels == cv2.GC_FGD).any() and (labels == cv2.GC_BGD).any()):
        return mask
    cut = torch.from_numpy(cut_out(to_pixels(frame), labels, 3, 0))[None].float()
    return cut if 2 / 3 < cut.sum() / mask.sum() < 4 / 3 else mask
