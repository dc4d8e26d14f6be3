# SPDX-License-Identifier: Apache-2.0
"""An object is found without any labels: by GrabCut (Rother et al. 2004) in the first frame, then followed.

Random rectangles are offered to GrabCut; the object that stands out best is kept. In each further frame the mask is
moved there by optical flow, and GrabCut decides again in a band around its edge.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import resize
from harmonizer_ns.synthesis.streams.motion import Motion, small_images

_RECTANGLES = 12
_FOLLOWED = 3  # so many objects are followed, to keep one that stays
_REACH = 0.15  # of the width: so far a thing may go on beyond its rectangle
_BAND = 0.012  # of the width: so far a moved edge may be from the true one
_HELD = 0.6  # an object is lost when less of it is sure


def object_mask(frames: Float[Tensor, "n 3 h w"], share: tuple[float, float], seed: int) -> Bool[Tensor, "n 1 h w"]:
    """Mask one object in every frame; empty from where it cannot be followed any more.

    Args:
        frames: neighbouring frames, colours in [0, 1].
        share: smallest and largest part of the first frame that the object may cover.
        seed: of the rectangles.

    Raises:
        InputError: when nothing of that size stands out.
    """
    height, width = frames.shape[-2:]
    images = small_images(frames)
    found = _objects(images[0], share, seed)
    motions = [Motion.between(*pair) for pair in itertools.pairwise(images)]
    clips = [_follow(images, motions, mask, share, seed) for mask in found[:_FOLLOWED]]
    best = max(clips, key=lambda masks: sum(mask.any() for mask in masks))  # the first of equals stands out most
    return resize(torch.from_numpy(np.stack(best))[:, None].float(), height, width).to(frames.device) > 0.5


def _objects(image: UInt8[np.ndarray, "h w 3"], share: tuple[float, float], seed: int) -> list[np.ndarray]:
    """Find masks of a good size that GrabCut makes of random rectangles, what stands out most first.

    Where all surroundings are alike GrabCut gives every rectangle up; then the middle of each is taken for granted.
    """
    for core in (False, True):
        masks = [_whole(cut_out(image, labels, 3, seed)) for labels in _rectangles(image.shape[:2], core, seed)]
        masks += [_fit(image, mask, _REACH, seed) for mask in masks if mask.mean() > share[0] / 2]
        found = [mask for mask in masks if share[0] <= mask.mean() <= share[1]]
        if found:
            return sorted(found, key=lambda mask: _standing_out(image, mask), reverse=True)
    raise InputError(
        f"no object that covers {share[0]:.0%} to {share[1]:.0%} of the frame was found: widen the mask's share, "
        "or give masks (source: files, boxes or sam)"
    )


def _rectangles(size: tuple[int, ...], core: bool, seed: int) -> Iterator[np.ndarray]:
    """Draw GrabCut's labels, with a foreground that is probable in a rectangle and sure in its core."""
    import cv2

    draw = random.Random(seed)
    height, width = size
    for _ in range(_RECTANGLES):
        labels = np.full((height, width), cv2.GC_BGD, np.uint8)
        w, h = (round(side * draw.uniform(0.2, 0.65)) for side in (width, height))
        x, y = draw.randrange(width - w), draw.randrange(height - h)
        labels[y : y + h, x : x + w] = cv2.GC_PR_FGD
        if core:
            middle, axes = (x + w // 2, y + h // 2), (w // 6, h // 6)
            cv2.ellipse(labels, middle, axes, 0, 0, 360, (cv2.GC_FGD,), cv2.FILLED)
        yield labels


def cut_out(image: np.ndarray, labels: np.ndarray, rounds: int, seed: int) -> np.ndarray:
    """Run GrabCut from its four labels; returns what is foreground."""
    import cv2

    foreground = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not foreground.any() or foreground.all():
        return foreground
    cv2.setRNGSeed(seed % 2**31)
    model = np.zeros((1, 65)), np.zeros((1, 65))  # OpenCV writes its colour models here
    cv2.grabCut(image, labels, (0, 0, 1, 1), *model, rounds, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _whole(mask: np.ndarray) -> np.ndarray:
    """Keep the largest piece, without thin parts and holes."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    smooth = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    pieces, _ = cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not pieces:
        return np.zeros_like(mask)
    largest = max(pieces, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(smooth), [largest], -1, (1,), cv2.FILLED).astype(bool)


def _standing_out(image: np.ndarray, mask: np.ndarray) -> float:
    """Score a mask: colour difference (Lab) across the weaker parts of its edge, times compactness.

    The weaker parts, the lower quartile: a mask that cuts a thing through has some. Less where the frame cuts it off,
    and less for what ends high up: things stand on the ground, sky does not.
    """
    import cv2

    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    near = cv2.blur(np.dstack([lab * mask[..., None], mask]).astype(np.float32), (9, 9))
    outside = ~mask & (near[..., 3] > 0.1)
    if not outside.any():
        return 0.0
    difference = np.linalg.norm(near[outside][:, :3] / near[outside][:, 3:] - lab[outside], axis=1)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    perimeter = sum(cv2.arcLength(contour, True) for contour in contours)
    cut = sum(int(side.sum()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    compactness = math.sqrt(4 * math.pi * mask.sum()) / perimeter
    lowest = np.flatnonzero(mask.any(axis=1))[-1] / len(mask)
    placed = max(0.0, 1 - cut / perimeter) ** 2 * min(1.0, lowest / 0.7) ** 4
    return float(np.quantile(difference, 0.25) * compactness * placed)


def _follow(
    images: list[np.ndarray], motions: list[Motion], mask: np.ndarray, share: tuple[float, float], seed: int
) -> list[np.ndarray]:
    """Follow an object's mask from frame to frame."""
    masks = [mask]
    for image, motion in zip(images[1:], motions, strict=True):
        moved = motion.move(masks[-1].astype(np.uint8)) > 0
        held = moved.any() and motion.sure[moved].mean() > _HELD
        fitted = _fit(image, moved, _BAND, seed) if held else np.zeros_like(mask)
        alike = 0.7 * moved.sum() < fitted.sum() < 1.4 * moved.sum() and share[0] / 2 <= fitted.mean()
        masks.append(fitted if alike else np.zeros_like(mask))
    return masks


def _fit(image: np.ndarray, moved: np.ndarray, reach: float, seed: int) -> np.ndarray:
    """Decide a mask's edge anew, within a band whose half-width is ``reach`` of the image's width."""
    import cv2

    band = 2 * max(2, round(reach * moved.shape[1])) + 1
    labels = doubtful_edge(moved, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (band, band)))
    return _whole(cut_out(image, labels, 2, seed))


def doubtful_edge(mask: Bool[np.ndarray, "h w"], kernel: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Label a mask for GrabCut as sure but for its edge: the band that the kernel covers along it."""
    import cv2

    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(mask.astype(np.uint8), kernel) > 0] = cv2.GC_FGD
    labels[cv2.dilate(mask.astype(np.uint8), kernel) == 0] = cv2.GC_BGD
    return labels
